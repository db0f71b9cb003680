import json
import subprocess
import sys
from pathlib import Path

import jiwer
import pytest
import sacrebleu

from hfaudio.metrics import module_path

REFERENCES = ["the cat sat on the mat", "hello world", "one"]
PREDICTIONS = ["the cat sit on mat", "hello big world", ""]

SCRIPT = """
import json
import sys
import evaluate
paths, references, predictions = json.loads(sys.argv[1])
print(json.dumps([evaluate.load(path).compute(predictions=predictions, references=references) for path in paths]))
"""


def test_evaluate_loads_the_folders_offline(tmp_path: Path) -> None:
    """In a fresh process, as evaluate reads its environment when it is imported."""
    environment = {
        "PATH": "/usr/bin:/bin",
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(tmp_path),
        "HF_MODULES_CACHE": str(tmp_path / "modules"),
        # any connection fails at once
        "HTTPS_PROXY": "http://127.0.0.1:9",
        "HTTP_PROXY": "http://127.0.0.1:9",
    }
    arguments = json.dumps(
        [[module_path(name) for name in ("wer", "cer", "mer", "chrf", "bleu")], REFERENCES, PREDICTIONS]
    )
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, arguments], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    expected = [measure(REFERENCES, PREDICTIONS) for measure in (jiwer.wer, jiwer.cer, jiwer.mer)]
    expected += [score(PREDICTIONS, [REFERENCES]).score for score in (sacrebleu.corpus_chrf, sacrebleu.corpus_bleu)]
    assert json.loads(done.stdout) == pytest.approx(expected, abs=1e-12)


def test_unknown_name_is_refused() -> None:
    with pytest.raises(ValueError, match="'rouge'; choose one of wer, cer, mer, chrf, bleu"):
        module_path("rouge")
