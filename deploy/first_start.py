"""The first key (VOLLEY_API_KEY) and configuration (VOLLEY_CONFIG) of a database; later runs change nothing."""

from app import settings
from app.cli.configure import check_gateway
from app.store import bootstrap

ours = settings.load()
if ours.database_url is None or ours.api_key is None or ours.config is None:
    raise SystemExit("VOLLEY_DATABASE_URL, VOLLEY_API_KEY and VOLLEY_CONFIG are needed")
bootstrap.first_key(ours.database_url, ours.api_key)
seeded = bootstrap.seed(ours.database_url, ours.config, check_gateway)
print("configured" if seeded else "there is a configuration already; `volley apply` changes it")
