"""Options that several commands share."""

from __future__ import annotations

import click

store_option = click.option("--store", "location", required=True, metavar="PATH", help="The feature store.")
json_option = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON on stdout.")
quiet_option = click.option("-q", "--quiet", is_flag=True, help="Print errors only.")
verbose_option = click.option("-v", "--verbose", is_flag=True, help="Print every failure, not the first few.")
models_help = "ARCH/TAG, ARCH//weights, hf-hub:ORG/REPO, local-dir:PATH or timm:NAME. Repeatable."
