"""`dbyte-lm-eval`: the command `lm_eval` of lm-evaluation-harness, arguments and all, with the model `dbyte` added.

The harness (0.4.13) keeps a registry of lazily imported models and looks for no plugins: neither for entry points nor
in `--include_path`, whose functions are loaded after the model. Its registry and its command line are importable
though, so this program registers the adapter and then runs the command. Nothing has to happen when Python starts.
"""

NAME, ADAPTER = "dbyte", "dbyte.evaluate.lm:StudentLM"


def register() -> None:
    """Add the adapter to the harness's registry, by its place: nothing of dbyte is imported before it is asked for."""
    import lm_eval.models  # noqa: F401  the harness fills an empty registry only
    from lm_eval.api.registry import model_registry

    model_registry.register(NAME, target=ADAPTER)


def main() -> None:
    """Run the harness's own command."""
    from lm_eval.__main__ import cli_evaluate

    register()
    cli_evaluate()


if __name__ == "__main__":
    main()
