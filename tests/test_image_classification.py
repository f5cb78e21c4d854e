"""What the task image_classification promises beside the contract of every task."""

import pytest
import torch
from examples import image_folder
from image_helpers import _folder, _original, _own_cache, parquet  # noqa: F401
from tiny_task import make_trial

from compression.registry import InvalidSetting
from trainables import features
from trainables.build import build
from trainables.frozen.feature_split import FeatureSplit
from trainables.tasks import TASKS

FEW = 8  # rows: no more go through a model to find its cut


def task(folder, **settings):
    return TASKS.build("image_classification", {"data": str(folder), "image_size": 32} | settings)


def problems(folder, **settings):
    with pytest.raises(InvalidSetting) as error:
        task(folder, **settings).check()
    return error.value.errors


def test_the_settings_of_a_task_are_checked_all_at_once(folder, tmp_path):
    found = problems(
        tmp_path / "none", model="resnet81", weights="finetune", start=str(tmp_path / "w.pth")
    )
    assert [e.split(":")[0] for e in found] == [
        f"image_classification.{key}" for key in ("model", "data", "start")
    ]
    assert "did you mean 'resnet18'?" in found[0]
    (missing,) = problems("")
    assert "data: is missing" in missing
    (layers,) = problems(folder, weights="finetune", start="none", layers="fc, head")
    assert "'head' matches no Linear, Conv2d or Embedding" in layers
    (size,) = problems(folder, model="vit_b_16", weights="finetune", start="none", layers="heads*")
    assert "image_size: vit_b_16 takes no 32" in size
    with pytest.raises(InvalidSetting, match="leave nothing to train on"):
        task(folder, validation_share=0.5, test_share=0.5)


def test_labels_out_of_the_range_of_the_weights_are_refused(folder, tmp_path):
    (sentence,) = problems(folder)
    assert f"3 classes in '{folder}', the weights tell 1000 classes apart" in sentence
    assert "weights: finetune" in sentence
    file = parquet(folder, tmp_path / "x.parquet", labels=[*range(119), 1000])
    (sentence,) = problems(file)
    assert "label 1000 is out of range" in sentence
    task(parquet(folder, tmp_path / "y.parquet")).check()  # labels of 3 of the 1000 classes


def test_too_few_images_for_three_parts_are_refused(tmp_path):
    image_folder(tmp_path, classes=2, each=1)
    few = task(tmp_path, weights="finetune", start="none")
    with pytest.raises(InvalidSetting, match=r"2 images in 2 classes leave validation, test empty"):
        few.prepare(0)


def test_the_dense_model_agrees_with_itself(folder):
    made = task(folder, weights="none", labels="dense", model="squeezenet1_1", limit=40)
    assert made.metric == "agreement"
    data = made.prepare(0)
    batch = data.validation.batch(torch.arange(len(data.validation)))
    scores = made.score(made.observe(data.model(batch.inputs), batch.labels), batch.labels)
    assert scores["agreement"] == scores["top5"] == 1.0
    assert made.chance == 1e-3
    assert len(data.train) + len(data.validation) + len(made.test(0)) == 40


@pytest.mark.parametrize("views", [1, 3])
def test_dense_labels_and_trials_share_one_pass(folder, monkeypatch, views):
    """Rows that went through the first convolution, but for the few on which a cut is tried."""
    rows = []
    plain = torch.nn.Conv2d.forward

    def counted(self, images):
        if self.in_channels == 3 and len(images) > FEW:
            rows.append(len(images))
        return plain(self, images)

    monkeypatch.setattr(torch.nn.Conv2d, "forward", counted)
    made = task(folder, weights="none", labels="dense", model="resnet18", layers="fc", views=views)
    data = made.prepare(0)
    model = build(made, data, make_trial())
    stage = features.stage(made, data, model)
    assert "is computed once" in stage.note
    assert isinstance(stage.train, FeatureSplit)
    assert sum(rows) == 96 * views + 12
    rows.clear()
    features.features_of(made, data.model, model, made.test(0))
    assert sum(rows) == 12
    with torch.inference_mode():
        expected = [data.model(b.inputs).argmax(-1) for b in data.validation.batches(6)]
    assert torch.equal(torch.cat(expected), data.validation.labels)


def test_dense_labels_without_room_for_features(folder, monkeypatch):
    monkeypatch.setenv("PARETUNE_CACHE_BYTES", "1000")
    made = task(folder, weights="none", labels="dense", model="resnet18", layers="fc")
    data = made.prepare(0)
    with torch.inference_mode():
        expected = torch.cat([data.model(b.inputs).argmax(-1) for b in data.train.batches(64)])
    assert torch.equal(expected, data.train.labels)


@pytest.mark.parametrize("model", ["googlenet", "densenet121"])
@pytest.mark.slow
@pytest.mark.timeout(120)
def test_networks_with_ways_of_their_own_are_fine_tuned(folder, model):
    made = task(
        folder, model=model, weights="finetune", start="none", epochs=1, limit=30, image_size=64
    )
    data = made.prepare(0)
    assert data.model(data.train.inputs(torch.arange(3))).shape == (3, 3)


def test_ids_for_labels_are_refused_before_anything_is_built(folder, tmp_path):
    file = parquet(folder, tmp_path / "x.parquet", labels=[2012001234 + i for i in range(120)])
    (sentence,) = problems(file, weights="finetune", start="none")
    assert "labels out of range" in sentence


def test_weights_from_a_file_bring_their_head(folder, tmp_path):
    from trainables.models.vision import architecture

    file = tmp_path / "three.pth"
    torch.save(architecture("resnet18", 3).state_dict(), file)
    given = task(folder, weights=str(file), layers="fc")
    given.check()
    assert given.architecture().fc.out_features == 3
    wrong = tmp_path / "wrong.pth"
    state = architecture("resnet18", 3).state_dict()
    torch.save({k.replace("layer4", "stage4"): v for k, v in state.items()}, wrong)
    with pytest.raises(InvalidSetting) as error:
        task(folder, weights=str(wrong)).prepare(0)
    assert len(error.value.errors) > 20
    start = task(folder, weights="finetune", start=str(wrong))
    with pytest.raises(InvalidSetting, match=r"'layer4.0.conv1.weight' is missing"):
        start.prepare(0)


def test_views_are_for_training_alone(folder):
    data = task(folder, weights="none", views=4, model="squeezenet1_1").prepare(0)
    assert (data.train.views, data.validation.views) == (4, 1)
