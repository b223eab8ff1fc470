"""The command `render`: a blueprint in the form that another system takes.

Thin: it reads the blueprint, has `works.kubernetes` make the manifests, and writes them.
"""

import re
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from gigafactory.door import AS_JSON, door, say, write_whole
from gigafactory.faults import Refused

render = typer.Typer(
    no_args_is_help=True,
    help="""A blueprint in the form that another system takes.

    Example: `gigafactory render kubernetes h100-8 -o manifests`""",
)


def mount(app: typer.Typer) -> None:
    """Add this command to the door."""
    app.add_typer(render, name="render")


@render.callback()
def _forms() -> None:
    """Keeps the name of the form a word of its own while there is one form."""


@render.command("kubernetes")
def render_kubernetes(
    blueprint: Annotated[
        str, typer.Argument(help="a blueprint file, or the name of a shipped one")
    ],
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="PATH=VALUE", help="change a value: sites.milan.power=1MW"),
    ] = None,
    image: Annotated[
        str | None, typer.Option(help="of works and workers; gigafactory:VERSION if left out")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="a folder for SITE/factory.yaml and queues.yaml"),
    ] = None,
    as_json: AS_JSON = False,
) -> None:
    """Write manifests of KubeRay and Kueue: a factory for each site, a queue for each tenant.

    The same blueprint gives the same bytes. Nothing is applied; docs/kubernetes.md says what a
    cluster needs first.

    Examples: `gigafactory render kubernetes h100-8 -o manifests`,
    `gigafactory render kubernetes my.yaml --image registry.example/gigafactory:1 --json`
    """
    with door(as_json):
        from gigafactory import plan as planning
        from gigafactory.blueprint.load import find, parse, read_changed, read_text
        from gigafactory.works import kubernetes

        path = find(blueprint)
        text = read_text(path)
        loaded = parse(text, path, set_ or ())
        plan = planning.make(loaded)
        tree = read_changed(text, path, set_ or ())
        sites = {}
        for site in loaded.sites:
            own = kubernetes.own_blueprint(tree, loaded, plan, site)
            _stands_alone(own, site)
            sites[site] = {
                "factory": kubernetes.factory(loaded, plan, site, own, image or kubernetes.IMAGE),
                "queues": kubernetes.queues(loaded, plan, site),
            }
        files = {
            f"{site}/{name}.yaml": kubernetes.written(manifests)
            for site, parts in sites.items()
            for name, manifests in parts.items()
        }
        if output is not None:
            for name, content in files.items():
                (output / name).parent.mkdir(parents=True, exist_ok=True)
                write_whole(output / name, content)
            names = [str(output / name) for name in files]
            say({"files": names}, as_json, lambda: "\n".join(names))
        elif as_json:
            say({"sites": sites}, True, str)
        else:
            print("".join(f"# {name}\n{content}" for name, content in files.items()), end="")


def _stands_alone(own: str, site: str) -> None:
    """Check a site's part as a file is; nobody has the file, so its lines say nothing."""
    from gigafactory.blueprint.load import parse

    try:
        parse(own, Path(f"{site}.yaml"))
    except Refused as refused:
        part = f"the part of {site}"
        faults = (
            replace(fault, where=re.sub(r"^[^,]*", part, fault.where)) for fault in refused.faults
        )
        raise Refused(*faults) from None
