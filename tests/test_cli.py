import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import nn

from vis_callbacks.cli import main
from vis_callbacks.output.record import Record
from vis_callbacks.output.store import PictureStore


@pytest.fixture
def log_dir(tmp_path: Path) -> Path:
    folder = tmp_path / "logs" / "version_0"
    PictureStore(folder).add(Record("Filters/conv1", "Filters", 1, 9), np.zeros((8, 8, 3), np.uint8))
    return folder


def test_report_writes_the_report_and_prints_its_path(log_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(log_dir)]) == 0
    path = Path(capsys.readouterr().out.strip())
    assert path == log_dir / "visualizations" / "report.html"
    assert "Filters" in path.read_text("utf-8")


def test_report_goes_where_it_is_asked_to(log_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(log_dir / "visualizations"), "--output", str(tmp_path / "mine.html")]) == 0
    assert (tmp_path / "mine.html").is_file()
    assert not (log_dir / "visualizations" / "report.html").exists()


def test_no_store_says_what_is_missing_and_where_there_is_one(
    log_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", str(log_dir.parent)]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("vis-callbacks: ")
    assert str(log_dir) in output.err


def test_an_output_that_cannot_be_written_is_no_traceback(log_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (log_dir / "file").write_text("")
    assert main(["report", str(log_dir), "-o", str(log_dir / "file" / "x.html")]) == 2
    assert "file" in capsys.readouterr().err


@pytest.mark.parametrize("count", [1, 7])
def test_a_comparison_takes_two_to_six_runs(log_dir: Path, capsys: pytest.CaptureFixture[str], count: int) -> None:
    assert main(["compare", *[str(log_dir)] * count]) == 2
    assert "expected 2 to 6" in capsys.readouterr().err


@pytest.mark.slow
def test_a_terminated_look_ends_at_once(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((256, 256, 3), np.uint8)).save(tmp_path / "black.png")
    options = ["timm:resnet50", tmp_path / "black.png", "--techniques", "ScoreCAM,Occlusion", "-o", tmp_path / "x.html"]
    command = [sys.executable, "-m", "vis_callbacks.cli", "look", *map(str, options)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as running:
        assert running.stderr is not None
        # It is said before the passes begin, which take far longer than what is waited for.
        assert "random weights" in running.stderr.readline()
        time.sleep(2)
        assert running.poll() is None
        running.send_signal(signal.SIGTERM)
        assert running.wait(5) == -signal.SIGTERM
    assert not (tmp_path / "x.html").exists()


@pytest.mark.parametrize("arguments", [[], ["unknown"], ["report"]])
def test_wrong_usage_exits_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert "usage: vis-callbacks" in capsys.readouterr().err


def test_it_runs_as_a_program(log_dir: Path) -> None:
    command = [sys.executable, "-m", "vis_callbacks.cli", "report", str(log_dir)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip().endswith("report.html")


@pytest.mark.parametrize("command", ["--help", "report", "compare", "strip"])
def test_neither_torch_nor_lightning_is_loaded(command: str, log_dir: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from vis_callbacks.cli import main\n"
        "try: main(sys.argv[1:])\n"
        "finally: print(*sys.modules, file=sys.stderr)"
    )
    more = {
        "--help": [],
        "report": [str(log_dir)],
        "compare": [str(log_dir), str(log_dir), "-o", str(tmp_path / "both.html")],
        "strip": [str(log_dir), "--row", "Filters/conv1", "-o", str(tmp_path / "strip.webp")],
    }
    arguments = [command, *more[command]]
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0
    loaded = set(done.stderr.split())
    assert "vis_callbacks.cli" in loaded
    assert loaded & {"torch", "torchvision", "pytorch_lightning", "lightning", "matplotlib"} == set()
    assert loaded & {"vis_callbacks.run", "vis_callbacks.model", "vis_callbacks.callback"} == set()
    assert command != "--help" or loaded & {"numpy", "PIL", "jinja2"} == set()


def test_a_reader_that_has_seen_enough_is_no_error(log_dir: Path) -> None:
    command = [sys.executable, "-m", "vis_callbacks.cli", "report", str(log_dir)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 0


def test_layers_are_listed_with_names_shapes_and_receptive_fields(capsys):
    assert main(["layers", "timm:test_resnet", "--size", "64"]) == 0
    printed = capsys.readouterr().out
    assert printed.splitlines()[0] == "network: ResNet, 1000 outputs, default layer layer2, map of 8 x 8"
    lines = {line.split()[0]: line for line in printed.splitlines() if line.strip()}
    assert "Conv2d" in lines["conv1.0"]
    assert "32 x 32" in lines["conv1.0"]
    assert "layer4" in lines


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["resnet18"], "expected timm:NAME"),
        (["timm:resnet_of_dreams"], "cannot be built"),
        (["no.such.module:make"], "No module named"),
        (["timm:test_resnet", "--size", "1", "2", "3", "4"], "expected C H W"),
    ],
)
def test_a_wrong_model_is_said(capsys, arguments, said):
    assert main(["layers", *arguments]) == 2
    assert said in capsys.readouterr().err


class Distillation(nn.Module):
    def __init__(self):
        super().__init__()
        self.teacher = nn.Sequential(nn.Conv2d(3, 64, 3), nn.Flatten(), nn.Linear(64 * 36, 5)).requires_grad_(False)
        self.student = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 5))


def test_layers_are_those_of_the_network_that_pictures_show(capsys):
    assert main(["layers", f"{__name__}:Distillation", "--size", "8"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "network: student (Sequential), 5 outputs, default layer 1, map of 6 x 6"
    assert len(printed) == 2 + 4


class Maps(nn.Conv2d):
    def __init__(self):
        super().__init__(3, 5, 1)


def test_a_model_without_logits_says_what_to_set(capsys):
    assert main(["layers", f"{__name__}:Maps", "--size", "8"]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "no part of Maps maps images to logits" in printed.err
    assert "set forward=" in printed.err


class TestLook:
    @pytest.fixture
    def cup(self, tmp_path: Path) -> Path:
        path = tmp_path / "cup.png"
        Image.fromarray(np.random.default_rng(0).integers(0, 255, (70, 90, 3), dtype=np.uint8)).save(path)
        return path

    def test_it_writes_the_page_and_prints_its_path(self, cup: Path, capsys: pytest.CaptureFixture[str]) -> None:
        page = cup.parent / "new" / "cup.html"
        arguments = ["timm:test_resnet", str(cup), "--techniques", "GradCAM, Saliency", "--target", "lemon"]
        assert main(["look", *arguments, "-o", str(page)]) == 0
        output = capsys.readouterr()
        assert output.out.strip() == str(page)
        assert "random weights; give --pretrained or --weights FILE" in output.err
        text = page.read_text("utf-8")
        for part in ("GradCAM", "Saliency", "for lemon", "cup"):
            assert part in text

    def test_weights_are_loaded_also_of_a_lightning_checkpoint(
        self, cup: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        model = timm.create_model("test_resnet")
        nn.init.zeros_(model.fc.weight)
        nn.init.zeros_(model.fc.bias)
        model.fc.bias.data[951] = 20.0
        weights, page = cup.parent / "last.ckpt", cup.parent / "cup.html"
        state = {f"model.{name}": value for name, value in model.state_dict().items()}
        torch.save({"state_dict": state, "epoch": 3}, weights)
        assert main(["look", "timm:test_resnet", str(cup), "--weights", str(weights), "-o", str(page)]) == 0
        assert capsys.readouterr().err == ""
        assert "lemon" in page.read_text("utf-8")

    @pytest.mark.parametrize(
        ("arguments", "says"),
        [
            (["timm:test_resnet", "nowhere.png"], "nowhere.png"),
            (["timm:test_resnet", "CUP", "--techniques", "GradCam"], "no technique 'GradCam'; nearest: GradCAM"),
            (["timm:test_resnet", "CUP", "--techniques", "Attention"], "has no attention"),
            (["timm:test_resnet", "CUP", "--target", "unicorn"], "unicorn"),
            (["timm:test_resnet", "CUP", "--weights", "CUP"], "cannot be read"),
            (["timm:nothing", "CUP"], "timm:nothing"),
        ],
    )
    def test_what_is_wrong_is_one_line(
        self, arguments: list[str], says: str, cup: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        given = [str(cup) if one == "CUP" else one for one in arguments]
        assert main(["look", *given, "-o", str(cup.parent / "cup.html")]) == 2
        error = capsys.readouterr().err
        assert says in error.splitlines()[-1]
        assert "Traceback" not in error
