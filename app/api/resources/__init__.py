"""The resources: one router each, all in `routers`."""

from fastapi import APIRouter

from app.api.resources import (
    audit,
    consents,
    countries,
    gateways,
    inbound,
    keys,
    pools,
    prices,
    probes,
    regions,
    routes,
    senders,
    suppressions,
    templates,
    tenants,
    texts,
    webhooks,
)

routers: list[APIRouter] = [
    templates.router,
    texts.router,
    suppressions.router,
    suppressions.files,
    consents.router,
    consents.files,
    inbound.router,
    webhooks.router,
    senders.router,
    pools.router,
    gateways.router,
    prices.router,
    routes.router,
    regions.router,
    probes.router,
    countries.router,
    tenants.router,
    keys.router,
    audit.router,
]
