"""Rules by country: hours, caps, consent, labels and keywords, as cited and versioned data files."""

from app.countries.packs import Cap, ConsentRule, Jurisdiction, Pack, Packs
from app.countries.schema import BadPack

__all__ = ["BadPack", "Cap", "ConsentRule", "Jurisdiction", "Pack", "Packs"]
