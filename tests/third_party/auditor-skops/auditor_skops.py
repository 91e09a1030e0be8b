"""Classifiers of scikit-learn that skops has saved (https://skops.readthedocs.io): features in, probabilities out."""

from pathlib import Path

from auditor import Artefact, BadInput, hookimpl

AUDITOR_API = "1.0"


@hookimpl
def auditor_open_model(path: Path, device: str, trust: bool = False):
    if path.suffix != ".skops":
        return None
    import skops.io

    try:
        # types that skops does not know may run code when they are loaded
        foreign = skops.io.get_untrusted_types(file=path)
        model = skops.io.load(path, trusted=foreign if trust else [])
    except Exception as error:
        raise BadInput(f"{path}: skops cannot load it: {error}; --trust-model allows code of its author") from None
    if not hasattr(model, "predict_proba"):
        raise BadInput(f"{path}: {type(model).__name__} has no predict_proba; expected a classifier with probabilities")
    return Artefact(
        format="skops",
        runtime=f"scikit-learn, {type(model).__name__}",
        # pixels or features: the data decides which
        input_shape=(None, model.n_features_in_),
        input_dtype="float32",
        scores=model.predict_proba,
        outputs="probabilities",
        classes=[str(name) for name in model.classes_],
        copy_reason="scikit-learn has no gradients",
    )


@hookimpl
def auditor_example_files(folder: Path):
    import numpy as np
    import skops.io
    from sklearn.linear_model import LogisticRegression

    features = np.random.default_rng(0).random((60, 64))
    path = folder / "example.skops"
    skops.io.dump(LogisticRegression().fit(features, features[:, 0] > 0.5), path)
    return [path]
