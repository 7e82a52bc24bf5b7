"""The command ``vis-callbacks``."""

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from torch import nn

    from vis_callbacks.callback import VisualizationCallback


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code: 0, or 2 for a wrong argument, such as a folder without a store.

    Args:
        argv: The arguments after the program's name. None: those of the process.
    """
    parser = argparse.ArgumentParser(prog="vis-callbacks", description="Look at what an image classifier learned.")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_report(commands)
    _add_compare(commands)
    _add_strip(commands)
    _add_serve(commands)
    _add_layers(commands)
    _add_look(commands)
    arguments = parser.parse_args(argv)
    try:
        code = int(arguments.command(arguments))
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        # The reader closed the pipe, as `head` does. Without this, Python would fail in its last flush.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (OSError, ValueError) as error:
        print(f"vis-callbacks: {error}", file=sys.stderr)
        return 2


def _add_report(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "report",
        help="write the HTML report of a run, even of one that was killed",
        description="Write all pictures of a run to one HTML file that opens in any browser, and print its path.",
    )
    parser.add_argument(
        "log_dir", metavar="LOG_DIR", type=Path, help="log directory of the run, e.g. lightning_logs/version_0"
    )
    parser.add_argument(
        "-o", "--output", metavar="FILE", type=Path, help="file to write (default: LOG_DIR/visualizations/report.html)"
    )
    parser.set_defaults(command=_report)


def _report(arguments: argparse.Namespace) -> int:
    from vis_callbacks.report.html import write_report  # here: other commands do not need it

    print(write_report(arguments.log_dir, arguments.output))
    return 0


def _add_compare(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "compare",
        help="write two to six runs side by side to one HTML file",
        description="Write the pictures of two to six runs side by side to one HTML file, and print its path.",
    )
    parser.add_argument("runs", metavar="RUN", nargs="+", type=Path, help="log directories of the runs")
    parser.add_argument(
        "-o", "--output", metavar="FILE", type=Path, default=Path("comparison.html"), help="(default: comparison.html)"
    )
    parser.set_defaults(command=_compare)


def _compare(arguments: argparse.Namespace) -> int:
    from vis_callbacks.report.html import write_comparison  # here: other commands do not need it

    print(write_comparison(arguments.runs, arguments.output))
    return 0


def _add_strip(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "strip",
        help="write one row of a run over time as a moving picture",
        description="Write the pictures of one row over time: as animated .webp or .gif, or as .png side by side.",
    )
    parser.add_argument("run", metavar="RUN", type=Path, help="log directory of the run")
    parser.add_argument(
        "--row", metavar="TAG", required=True, help="the row, such as ClassAppearance/7, or all of ClassAppearance"
    )
    parser.add_argument(
        "-o", "--output", metavar="FILE", type=Path, default=Path("strip.webp"), help="(default: strip.webp)"
    )
    parser.set_defaults(command=_strip)


def _strip(arguments: argparse.Namespace) -> int:
    from vis_callbacks.live.strip import write_strip  # here: other commands do not need it

    print(write_strip(arguments.run, arguments.row, arguments.output))
    return 0


def _add_serve(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "serve",
        help="show all runs of a folder in the browser, while they train",
        description="Serve the live page of all runs below folders, on this machine alone, until Ctrl-C.",
    )
    parser.add_argument("log_dirs", metavar="LOG_DIR", nargs="+", type=Path, help="folders such as lightning_logs")
    parser.add_argument("--port", type=int, default=0, help="port of the page (default: a free one)")
    parser.set_defaults(command=_serve)


def _serve(arguments: argparse.Namespace) -> int:
    from vis_callbacks.live.runs import Runs  # here: other commands do not need it
    from vis_callbacks.live.server import make

    folders: list[Path] = arguments.log_dirs
    for folder in folders:
        if not folder.is_dir():
            raise FileNotFoundError(f"{folder}: no such directory. Give the folder of the runs, such as lightning_logs")
    names = [folder.absolute().name for folder in folders] if len(folders) > 1 else [""]
    if len(set(names)) < len(names):
        names = list(map(str, folders))
    with make(Runs(dict(zip(names, folders, strict=True))), arguments.port) as server:
        print(f"http://127.0.0.1:{server.server_port}/", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            return 0
    return 0


def _add_layers(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "layers",
        help="list the layers of a model, to choose one by name",
        description="List the layers of a model in the order they run in, with output shapes and receptive fields.",
    )
    parser.add_argument(
        "model", metavar="MODEL", help="timm:resnet18, torchvision:resnet18, or package.module:function"
    )
    parser.add_argument("--size", type=int, nargs="+", help="C H W, H W or one number (default: the model's own size)")
    parser.set_defaults(command=_layers)


def _layers(arguments: argparse.Namespace) -> int:
    import torch  # here: other commands do not need it

    from vis_callbacks.model.evidence import find_subject
    from vis_callbacks.model.features import feature_info
    from vis_callbacks.model.pretrained_cfg import stated_input_size
    from vis_callbacks.model.subject import network_of
    from vis_callbacks.model.summary import layers_table

    model = _build(arguments.model)
    size = _image_size(stated_input_size(model) or (3, 224, 224), arguments.size)
    # Noise, not zeros: the default layer is found by its gradient.
    noise = torch.randn(1, *size, generator=torch.Generator().manual_seed(0))
    subject = find_subject(model, images=noise)
    network = network_of(model, subject)
    if subject.problem:
        print(f"vis-callbacks: {subject.problem}", file=sys.stderr)
    if not subject.runs:
        return 2
    found = feature_info(network, noise)
    try:
        layout = found.layout(found.default_layer())
        maps = f"default layer {layout.layer}, map of {' x '.join(map(str, layout.size))}"
    except ValueError as error:
        maps = str(error)
    print(f"network: {subject.name}, {subject.width} outputs, {maps}")
    print(layers_table(network, noise))
    return 0


def _add_look(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "look",
        help="show what a model sees in images",
        description="Make pictures of a model and some images without a training, and print the path of the page.",
    )
    parser.add_argument(
        "model", metavar="MODEL", help="timm:resnet18, torchvision:resnet18, or package.module:function"
    )
    parser.add_argument("images", metavar="IMAGE", type=Path, nargs="+", help="image files")
    parser.add_argument(
        "--techniques",
        metavar="NAMES",
        default="GradCAM,Saliency",
        help="callbacks, such as GradCAM,Saliency (default)",
    )
    parser.add_argument(
        "--target", metavar="CLASS", help="whose logit is explained, a number or a name (default: predicted)"
    )
    weights = parser.add_mutually_exclusive_group()
    weights.add_argument("--pretrained", action="store_true", help="with the weights that timm or torchvision publish")
    weights.add_argument("--weights", metavar="FILE", type=Path, help="a state dict, or a checkpoint of Lightning")
    parser.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        type=Path,
        default=Path("look.html"),
        help=".html, or .png (default: look.html)",
    )
    parser.set_defaults(command=_look)


def _look(arguments: argparse.Namespace) -> int:
    from vis_callbacks.notebook.look import look  # here: other commands do not need it

    kinds = [_technique(name.strip()) for name in arguments.techniques.split(",")]
    target = arguments.target
    options: dict[str, Any] = {} if target is None else {"targets": int(target) if target.isdigit() else target}
    missing = [str(path) for path in arguments.images if not path.is_file()]
    if missing:
        raise FileNotFoundError(f"no file {missing[0]!r}")
    model = _build(arguments.model, pretrained=arguments.pretrained)
    if arguments.weights is not None:
        _load(model, arguments.weights)
    elif not arguments.pretrained and arguments.model.partition(":")[0] in ("timm", "torchvision"):
        print(
            f"vis-callbacks: {arguments.model} has random weights; give --pretrained or --weights FILE", file=sys.stderr
        )
    print(look(model, arguments.images, [kind(**options) for kind in kinds]).save(arguments.output))
    return 0


def _technique(name: str) -> "type[VisualizationCallback]":
    import vis_callbacks
    from vis_callbacks.callback import VisualizationCallback
    from vis_callbacks.errors import nearest

    exported = {one: getattr(vis_callbacks, one) for one in dir(vis_callbacks) if one[0].isupper()}
    kinds = {
        one: kind
        for one, kind in exported.items()
        if isinstance(kind, type) and issubclass(kind, VisualizationCallback)
    }
    if name not in kinds:
        raise ValueError(f"no technique {name!r}; {nearest(name, kinds)}")
    return kinds[name]


def _load(model: "nn.Module", path: Path) -> None:
    import torch

    from vis_callbacks.errors import brief

    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(f"weights {str(path)!r} cannot be read: {brief(error)}") from error
    values = found.get("state_dict", found)
    # The model of a Lightning module is one of its attributes.
    heads = {name.partition(".")[0] for name in values}
    if len(heads) == 1 and not heads & {name.partition(".")[0] for name in model.state_dict()}:
        values = {name.partition(".")[2]: value for name, value in values.items()}
    try:
        model.load_state_dict(values)
    except RuntimeError as error:
        line = " ".join(str(error).split())
        raise ValueError(f"weights {str(path)!r} do not fit: {line[:160]}") from error


def _build(name: str, *, pretrained: bool = False) -> "nn.Module":
    package, _, maker = name.partition(":")
    if not maker:
        raise ValueError(f"model {name!r}: expected timm:NAME, torchvision:NAME or package.module:function")
    try:
        if package == "timm":
            return cast("nn.Module", import_module("timm").create_model(maker, pretrained=pretrained))
        if package == "torchvision":
            return cast(
                "nn.Module",
                import_module("torchvision.models").get_model(maker, weights="DEFAULT" if pretrained else None),
            )
        sys.path.insert(0, "")
        return cast("nn.Module", getattr(import_module(package), maker)())
    except (ImportError, AttributeError, RuntimeError, OSError) as error:
        raise ValueError(f"model {name!r} cannot be built: {error}") from error


def _image_size(stated: tuple[int, ...], asked: Sequence[int] | None) -> tuple[int, ...]:
    match asked:
        case None:
            return stated
        case [side]:
            return stated[0], side, side
        case [height, width]:
            return stated[0], height, width
        case [channels, height, width]:
            return channels, height, width
    raise ValueError(f"--size {' '.join(map(str, asked))}: expected C H W, H W or one number")


if __name__ == "__main__":
    sys.exit(main())
