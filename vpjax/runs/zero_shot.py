"""Zero-shot classification with CLIP: it gets the names of the classes and is not trained.

    python main.py zero-shot --config configs/mop_inat.py --config.backbone.weights=clip-b16

    logits = 100 <unit(f), t_c>     t_c: text feature of the class's names in templates, see
                                    vpjax.models.text.zero_shot

This is MoP with one sub-prompt a class and offsets of zero. Data and weights are those of the
recipe; features of images and texts are cached as in training. `text.name_type` and
`text.templates` choose the words; val and test are evaluated where the recipe has them.
"""

import logging
import time
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from vpjax.core import files, logs
from vpjax.core.errors import UserError
from vpjax.methods import mop
from vpjax.models.text.zero_shot import SCALE
from vpjax.runs import config as configs
from vpjax.runs import places, summary, workdir
from vpjax.runs.defaults import single_run
from vpjax.runs.experiment import prepare
from vpjax.runs.features import with_cached_features
from vpjax.runs.scores import as_table, margin_of, score

log = logging.getLogger(__name__)


def zero_shot(config: ConfigDict, folder: Path) -> dict[str, Any]:
    """Evaluate CLIP without training; write and return the result.

    Args:
        config: of a recipe, for data, weights and words.
        folder: for the result and the files of `vpjax.runs.scores`.

    Raises:
        UserError: if there is no split to evaluate, no text tower, or a class without a name.
    """
    config = zero_shot_config(config)
    with files.lock_folder(folder), logs.to_file(folder / "log.txt"):
        workdir.check_config(folder, config)
        if (result := workdir.read_result(folder)) is not None:
            log.info("%s is finished: %s", folder, summary.one_line(result))
            return result
        begin = time.perf_counter()
        experiment = with_cached_features(prepare(config))
        places.save(config, folder)
        summary.log_setup(experiment)
        summary.log_advice(experiment)
        splits = [s for s in ("val", "test") if s in experiment.sources]
        found = score(experiment, experiment.state, splits, folder)
        result = {"status": "finished", "step": 0}
        for split, numbers in found.items():
            log.info("\n%s\n", as_table(split, numbers, margin_of(experiment)))
            result |= {f"{split}_{k}": v for k, v in numbers.items()}
        # The facts are those of MoP, whose offsets are not part of this baseline.
        result |= summary.result_facts(experiment) | {
            "method": "zero_shot",
            "trainable": 0,
            "percent": 0.0,
        }
        result["seconds"] = round(time.perf_counter() - begin, 2)
        files.write_json(folder / "result.json", result)
        log.info("%s", summary.one_line(result))
        return result


def zero_shot_config(config: ConfigDict) -> ConfigDict:
    """Return the config of the zero-shot evaluation of a recipe's data and weights.

    Raises:
        UserError: if there is no split to evaluate.
    """
    if not config.data.val and not config.data.test:
        raise UserError("data.val and data.test are empty; give one of them to evaluate")
    still = {"num_prompts": 1, "init": "zero", "temp_cls": mop.SCALE / SCALE}
    config = configs.merged(single_run(config), {"method": {"name": "mop.MoP"} | still})
    # A recipe's choices about training do not apply.
    config.optim.update(no_decay="", schedule="constant")
    config.train.update(trainable="", select="last", patience=0, test_best=False)
    config.train.update(loss="softmax", class_weights="none", label_smoothing=0.0)
    config.text.name_type = config.text.name_type or "both"
    return config
