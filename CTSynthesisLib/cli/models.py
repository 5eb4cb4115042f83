"""List the models at hand, or verify their weights.

`list` shows each model and its limits; `verify` compares the weights' checksums with the model cards.
"""

from __future__ import annotations


def add_arguments(parser):
    parser.add_argument("action", choices=("list", "verify"))


def run(args):
    from .. import modelstore

    for card in modelstore.models():
        if args.action == "verify":
            card.check()
            print(f"{card.name}: the weights are what their card says (SHA-256 {card.sha256[:16]}…)")
        else:
            print(f"{card.name} {card.version}  ({card.bytes / 1e6:.1f} MB)  {card.title}\n  {card.description}")
            if not card.generates:
                print("  It generates no CT by itself.")
            for limit in card.limits:
                print(f"  - {limit}")
