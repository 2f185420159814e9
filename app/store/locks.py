"""Every advisory lock of PostgreSQL that Volley takes, so that no two mean the same number."""

MIGRATE = 0x766F6C6C00  # schema changes
PARTITIONS = 0x766F6C6C01  # making partitions
BOOTSTRAP = 0x766F6C6C02  # first key, seed and apply
RULES = 0x766F6C6C03  # shared: a change of the rules; exclusive: a page of the copy
EPOCH = 0x766F6C6C04  # building Redis' copy
SWEEPER = 0x766F6C6C05  # the one sweeper
SEGMENTS = 0x766F6C6C06  # putting the states of a text's segments together
PROBES = 0x766F6C6C08  # making a probe
TENANT_CLASS = 0x766F6C  # with a tenant's number: changes of that tenant's rules
INBOUND_CLASS = 0x766F6E  # with a gateway's number: storing texts that came in
BINDS_CLASS = 0x766F6D  # with a gateway's number: sharing its binds
ASKING_CLASS = 0x766F6F  # with half of a recipient's hash: asking for a consent
LEASE_CLASS = 0x766F6C65  # with a lease's number: held by its dispatcher for as long as it lives
