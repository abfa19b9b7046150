"""`plan`: what a scale costs, before it is run."""

import argparse

from dbyte.commands.scales import declare_scale


def declare(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser(
        "plan", help="parameters, FLOPs, hours and memory of a scale's curriculum, without a download")
    declare_scale(command, "paper")
    command.add_argument("--teacher", action="append",
                         help="a published teacher in place of the scale's; of further ones, the parameters")
    command.add_argument("--gpus", type=int, default=8)
    command.add_argument("--device", default="h100", help="h100 (the default), h200, a100, rtx4090 or cpu")
    command.add_argument("--flops-per-second", type=float, help="a measured matmul rate of the device; cpu needs one")
    command.add_argument("--sharding", default="", help="none, ddp or fsdp2 (the default on several GPUs)")
    command.add_argument("--utilisation", type=float, help="share of that rate, in (0, 1]; the plan states it")
    command.add_argument("--bytes-per-token", type=float, help="the tokenizer's (default: the paper's)")
    command.add_argument("--recompute", action="store_true", help="keep the inputs of blocks, run them twice")
    command.add_argument("--backend", default="torch",
                         help="of Mamba2: torch (the default), fast (fp32 on a CPU) or triton")
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    from dbyte.model.teacher_sizes import PAPER
    from dbyte.plan.devices import device
    from dbyte.plan.plan import Setting, plan_text
    from dbyte.presets import scale

    chosen = scale(arguments.scale, arguments.settings)
    teachers = tuple(arguments.teacher or ())
    compared = teachers[1:] if teachers or chosen.name != "paper" else PAPER
    given = {name: getattr(arguments, name) for name in ("utilisation", "bytes_per_token")
             if getattr(arguments, name) is not None}
    setting = Setting(
        chosen, device(arguments.device, flops_per_second=arguments.flops_per_second),
        teacher=teachers[0] if teachers else None, gpus=arguments.gpus, sharding=arguments.sharding,
        checkpointing=arguments.recompute, backend=arguments.backend, **given)
    print(plan_text(setting, compared=compared))
    return 0
