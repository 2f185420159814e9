"""Every limit of the API, named."""

from __future__ import annotations

from typing import Final

# bytes
MAX_MESSAGE_BYTES: Final = 64 * 1024  # the body of POST /v1/messages, and of every other small request
MAX_BULK_BYTES: Final = 4 * 1024 * 1024  # of the lists that a resource takes at once
MAX_BATCH_BYTES: Final = 16 * 1024 * 1024
MAX_UPLOAD_BYTES: Final = 2 * 1024 * 1024 * 1024
MAX_RECORD_BYTES: Final = 64 * 1024  # one row of an upload
MAX_BYTES_IN_FLIGHT: Final = 256 * 1024 * 1024  # of bodies being read and worked on, in one process
MAX_REQUESTS_IN_FLIGHT: Final = 2_000  # with a known key, in one process; half of them by one key
MAX_PUBLIC_IN_FLIGHT: Final = 500  # without a key, of one kind: callbacks, console, pages

# a connection, and a request's header block on its way in
MAX_CONNECTIONS: Final = 4_096  # in one process
HEADERS_S: Final = 10.0
MAX_HEADER_BYTES: Final = 64 * 1024
KEEP_ALIVE_S: Final = (
    75  # without a request; longer than load balancers and clients keep one, so that these close it
)

# a body on its way in
BODY_IDLE_S: Final = 10.0  # without a byte
BODY_ALLOWANCE_S: Final = 20.0  # of waiting that a body's bytes did not earn
MIN_BODY_BYTES_PER_S: Final = 1024  # what earns a second of waiting

# JSON
MAX_DEPTH: Final = 64

# messages
MAX_BODY_CHARS: Final = 1_600  # of a body before its variables are filled in
MAX_SEGMENTS: Final = 10  # whatever a tenant or a request says; both may say less
MAX_VARIABLES: Final = 64
MAX_VALUE_CHARS: Final = 1_600
MAX_REFERENCE_CHARS: Final = 255
MAX_NAME_CHARS: Final = 200
MAX_TEMPLATE_CHARS: Final = 200
MAX_URL_CHARS: Final = 2_048
MAX_METADATA_KEYS: Final = 20
MAX_METADATA_KEY_CHARS: Final = 64
MAX_METADATA_VALUE_CHARS: Final = 500
MAX_SCHEDULE_S: Final = 366 * 86_400
PAST_LEEWAY_S: Final = 10  # clocks differ: a time this little in the past is now
OTP_VALIDITY_S: Final = 600  # of an OTP that names no expiry; the other categories have none by default
DEFAULT_PRIORITY: Final = 5

# batches
MAX_RECIPIENTS: Final = 10_000
UPLOAD_CHUNK_ROWS: Final = 5_000
MAX_KEPT_REJECTIONS: Final = 10_000
MAX_SHOWN_REJECTIONS: Final = 100  # in an upload's answer
UPLOAD_LEASE_S: Final = 60.0
MAX_UPLOADS: Final = 8  # at once, in one process

# lists
MAX_PAGE: Final = 500
DEFAULT_PAGE: Final = 100

ROWS_A_STRETCH: Final = 250  # worked on before other requests get their turn: about 2 ms
