"""Train a small classifier of handwritten digits and write what the quick start needs, in seconds.

    python examples/digits/train.py --out digits

writes `digits.onnx`, the same model as `digits.pkl` and `digits.skops`, and calibration, evaluation and
training data as `.npz`. The data is scikit-learn's own copy of the UCI digits; nothing is downloaded.
"""

import argparse
import warnings
from pathlib import Path

import joblib
import numpy as np
import skops.io
from skl2onnx import to_onnx
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier


def train(out: Path, seed: int = 0) -> float:
    """Write the files to `out`; gives the accuracy on the evaluation data."""
    out.mkdir(parents=True, exist_ok=True)
    digits = load_digits()
    images = (digits.data / 16.0).astype(np.float32)
    labels = digits.target.astype(np.int64)
    train_x, rest_x, train_y, rest_y = train_test_split(
        images, labels, test_size=0.5, random_state=seed, stratify=labels
    )
    calibration_x, evaluation_x, calibration_y, evaluation_y = train_test_split(
        rest_x, rest_y, test_size=0.8, random_state=seed, stratify=rest_y
    )
    model = MLPClassifier(
        hidden_layer_sizes=(512, 256), learning_rate_init=2e-3, batch_size=64, max_iter=20, random_state=seed
    )
    with warnings.catch_warnings():
        # Twenty passes are enough here, converged or not.
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(train_x, train_y)

    onnx_model = to_onnx(model, train_x[:1], options={"zipmap": False}, target_opset=17)
    (out / "digits.onnx").write_bytes(onnx_model.SerializeToString())
    joblib.dump(model, out / "digits.pkl")
    skops.io.dump(model, out / "digits.skops")
    np.savez(out / "training.npz", X=train_x, labels=train_y)
    np.savez(out / "calibration.npz", X=calibration_x, labels=calibration_y)
    np.savez(out / "evaluation.npz", X=evaluation_x, labels=evaluation_y)
    return float(model.score(evaluation_x, evaluation_y))


def main() -> None:
    """Parse the arguments and train."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("digits"), help="directory for the files")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    accuracy = train(arguments.out, arguments.seed)
    print(f"accuracy on the evaluation data: {accuracy:.4f}; files in {arguments.out}")


if __name__ == "__main__":
    main()
