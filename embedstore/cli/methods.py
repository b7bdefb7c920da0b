"""``embedstore methods``: what `probe` can run."""

from __future__ import annotations

import json
from dataclasses import asdict

import click

from embedstore import errors
from embedstore.cli.options import json_option


@click.command()
@click.argument("name", required=False)
@json_option
def methods(name: str | None, as_json: bool) -> None:
    """List methods with their options, presets, and benchmarks; or one of them in full.

    \b
    Examples:
      embedstore methods
      embedstore methods knn
      embedstore methods imagenet
    """
    from embedstore.benchmarks import benchmark_names, load_benchmark
    from embedstore.cli import console
    from embedstore.evaluate import METHODS, PRESETS

    there = {
        **{key: {"kind": "method", "summary": one.summary, "options": one.defaults()} for key, one in METHODS.items()},
        **{f"preset {key}": {"kind": "preset", **asdict(one)} for key, one in PRESETS.items()},
        **{key: {"kind": "benchmark", **asdict(load_benchmark(key))} for key in benchmark_names()},
    }
    if name is not None:
        wanted = [key for key in there if name in (key, key.removeprefix("preset "))]
        if not wanted:
            raise errors.UnknownName("method, preset or benchmark", name, there)
        there = {key: there[key] for key in wanted}
    if as_json:
        click.echo(json.dumps(there))
        return
    out = console.human()
    for key, one in there.items():
        out.print(f"{key}: {one.get('summary') or one['title']}", markup=False, soft_wrap=True)
        if name is not None:
            rest = {field: value for field, value in one.items() if field not in ("kind", "summary", "title", "name")}
            out.print(json.dumps(rest, indent=2, ensure_ascii=False), markup=False, soft_wrap=True)
        elif one["kind"] == "method":
            options = ", ".join(f"{option}={value}" for option, value in one["options"].items())
            out.print(f"    {options}", markup=False, soft_wrap=True)
