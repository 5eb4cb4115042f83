"""List, verify, import or remove models.

`list` shows each model and its limits; `verify` compares the weights' checksums with the model cards; `import FILE` copies a model (a
.safetensors file with its .json card beside it) into the user's own folder; `remove NAME` deletes it there.
"""

from __future__ import annotations

from ..errors import UnusableInput


def add_arguments(parser):
    parser.add_argument("action", choices=("list", "verify", "import", "remove"))
    parser.add_argument("model", nargs="?", metavar="FILE|NAME", help="the model to import or remove")


def run(args):
    from .. import modelstore

    if args.action in ("import", "remove"):
        if args.model is None:
            raise UnusableInput(f"'models {args.action}' needs to be told which model: a file to import, or a name to remove.")
        if args.action == "import":
            card = modelstore.import_model(args.model)
            print(f"{card.name} {card.version} was imported; use it with --model {card.name}")
        else:
            modelstore.remove_model(args.model)
            print(f"{args.model} was removed")
        return
    for card in modelstore.models():
        if args.action == "verify":
            card.check()
            print(f"{card.name}: the weights are what their card says (SHA-256 {card.sha256[:16]}…)")
        else:
            print(f"{card.name} {card.version}  ({card.bytes / 1e6:.1f} MB)  {card.title}\n  {card.description}")
            if card.kind in modelstore.FROM_NOTHING:
                print("  It draws volumes from nothing: `ctsynthesis volume`.")
            elif not card.generates:
                print("  It generates no CT by itself.")
            for limit in card.limits:
                print(f"  - {limit}")
