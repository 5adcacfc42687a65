"""What is sampled from a finished run, and how it is measured. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from lightning_modules.bounds import check_least


@dataclass
class EvaluationConfig:
    """What is sampled from a finished run, and how it is measured."""

    snapshot: int = 0
    """Which of the weights that `trainer.snapshots` kept on the way are sampled from, 1 = the first; 0 = those that the
    run ends with."""
    num_samples: int = 512
    """Images, with labels balanced over the classes (LlamaGen's code draws them at random): 4 at least, where they are
    compared with real ones."""
    prompt_file: str = ""
    """Text file of captions to ask for, one a line, such as T2I-CompBench's; then there are no real images to measure
    against, and only scores of images beside captions. Image i is asked for with line i, and so on from the start."""
    prompt_fingerprint: str = ""
    """sha256 of that file, filled in when a run is resolved."""
    prompts: Literal["val", "train"] = "val"
    """Split whose captions a caption-conditioned run is asked for with: held out, or seen in training."""
    dataset: str = ""
    """Another data set to take captions and real images from, such as coco for a run on cc3m; empty = the run's own."""
    dataset_root: str = ""
    """Folder of that data set's stores."""
    dataset_fingerprint: str = ""
    """sha256 of the split's meta.json in it, filled in when a run is resolved."""
    dataset_reference: str = ""
    """File of reference statistics of that data set, as `reference` is of the run's own."""
    reference: str = ""
    """File of reference statistics (`ablate reference`, or ADM's npz) to measure against; empty = the data's images."""
    reference_fingerprint: str = ""
    """sha256 of the file that counts, filled in when a run is resolved."""
    seed: int = 0
    """Image i depends on (seed, i) alone, whatever the batch size."""
    batch_size: int = 128
    """Images that are sampled at once; on a GPU those before them are decoded meanwhile, and memory must hold both."""
    inception_weights: str = ""
    """Local file of the 2015-12-05 Inception weights; without it there is no FID and no IS."""
    inception_fingerprint: str = ""
    """sha256 of that file, filled in when a run is resolved."""
    dinov2_weights: str = ""
    """Local file of DINOv2 weights as published (ViT-L/14 for FD-DINOv2); without it there is no FD-DINOv2."""
    dinov2_fingerprint: str = ""
    """sha256 of that file, filled in when a run is resolved."""
    clip_weights: str = ""
    """Local folder of a CLIP as transformers writes it, for the CLIP score of runs on captions; without it there is
    none."""
    clip_fingerprint: str = ""
    """Of its weights and tokenizer, filled in when a run is resolved."""
    blip_vqa_weights: str = ""
    """Local folder of a BLIP for visual question answering, for T2I-CompBench's attribute binding."""
    blip_vqa_fingerprint: str = ""
    """Of its weights and tokenizer, filled in when a run is resolved."""
    detector_weights: str = ""
    """Local folder of an OWL-ViT or OWLv2, for spatial relations by T2I-CompBench's rule (with its UniDet: no)."""
    detector_fingerprint: str = ""
    """Of its weights and tokenizer, filled in when a run is resolved."""
    bootstrap: int = 200
    """Resamples of the images behind the intervals of single numbers; 0 = no intervals."""

    @property
    def reference_key(self) -> str:
        """The key that names what samples are measured against: of another data set's captions, its own images."""
        return "dataset_reference" if self.dataset else "reference"

    @property
    def reference_file(self) -> str:
        """The file that it names, or ""."""
        return str(getattr(self, self.reference_key))

    def __post_init__(self) -> None:
        check_least(self, "evaluation", snapshot=0, num_samples=2, batch_size=1)
        if self.prompt_file and (self.dataset or self.reference):
            raise ValueError(
                "evaluation.prompt_file leaves no real images to measure against; leave evaluation.dataset and "
                "evaluation.reference out."
            )
        if self.bootstrap < 0 or self.bootstrap == 1:
            raise ValueError(f"evaluation.bootstrap={self.bootstrap} must be a number of resamples, or 0 for none.")
