#!/usr/bin/env bash
# What to run where a GPU is lent, in order of worth. A stage takes less than ten minutes alone on an H200 and is left
# out once its result is there; a training goes on from its last checkpoint: the same line can be typed until all is
# done, and stages that do not need each other can run side by side in several shells.
#
#   DATA=shared/data OUT=$OUT bash benchmarks/gpu.sh                       all stages
#   DATA=... OUT=... bash benchmarks/gpu.sh checks speed                   some
#
#   DATA        folder with cifar10/ and mnist/, each with train.parquet and test.parquet
#   OUT         where results are written; benchmarks/results by default
#   RUNS        where trainings are; runs by default
#   OFFICIAL    folder with checkouts cm, bcm, edm and ect of the official code, to be timed beside ours
#   INCEPTION   torch-fidelity's weights; without them the shipped classifiers judge
#   OPTIONS     options of `fit` for all trainings, as --model.init_args.total_images=400000
#   TEST        options of `test` for all of them, as --scores.num_images=500
#   SEEDS       of the pictures; 0-63 by default
#   PYTHON      python3 by default
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3} out=${OUT:-benchmarks/results} runs=${RUNS:-runs} data=${DATA:-shared/data}
mkdir -p "$out"
ALL="checks libraries speed_diffusion speed_ct speed_bcm speed_cd speed_ect speed_ufogen judges
diffusion_mnist ct_mnist bcm_mnist ufogen_mnist restore_mnist
diffusion_cifar10 ct_cifar10 bcm_cifar10 ufogen_cifar10 cd_cifar10 restore_cifar10"

checkpoint() { # NAME: the last one of the training of configs/NAME.yaml
    echo "$runs/$1/000/checkpoints/last.ckpt"
}

train() { # NAME STEPS [OPTION ...]: fit configs/NAME.yaml and configs/gpu/NAME.yaml, or go on with it; then look at it
    local name=$1 steps=$2 last second=()
    last=$(checkpoint "$name")
    [ ! -e "configs/gpu/$name.yaml" ] || second=(--config "configs/gpu/$name.yaml")
    if [ -f "$last" ]; then
        "$python" main.py fit --ckpt_path "$last"
    else
        # shellcheck disable=SC2086 (OPTIONS are words)
        "$python" main.py fit --config "configs/$name.yaml" "${second[@]}" --trainer configs/trainer/gpu.yaml \
            --trainer.default_root_dir "$runs" --data.init_args.path "$data/${name#*_}" "${@:3}" ${OPTIONS:-}
    fi
    for n in $steps; do
        "$python" main.py sample --ckpt_path "$last" --seeds "${SEEDS:-0-63}" --steps "$n" --out "$out/${name}_$n"
        mv "$out/${name}_$n/grid.png" "$out/gpu_${name}_$n.png"
        rm -r "$out/${name}_$n"
    done
    # shellcheck disable=SC2086
    "$python" main.py test --ckpt_path "$last" ${INCEPTION:+--scores.inception_weights "$INCEPTION"} ${TEST:-}
    cp "$(dirname "$(dirname "$last")")/scores.json" "$out/gpu_${name}_scores.json"
}

restore() { # DATA COUNT TASK ...: the tasks side by side, by all methods over the models that were trained on the data
    local models=() method last task
    for method in CT BCM UFOGen diffusion; do
        last=$(checkpoint "${method,,}_$1")
        [ ! -f "$last" ] || models+=("$method=$last")
    done
    for task in "${@:3}"; do
        "$python" -m benchmarks.restoration --checkpoints "${models[@]}" --tasks "$task" --count "$2" --device cuda \
            --batch-size "$2" --json "$out/restoration_$1_${task// /_}.json" \
            --picture "$out/restoration_$1_${task// /_}.png" &
    done
    for task in "${@:3}"; do wait -n; done
}

stage() {
    local official=() from
    case $1 in
    checks) "$python" -m benchmarks.gpu_checks --size small --json "$out/gpu_checks.json" ;;
    speed_*)
        for code in edm cm ect bcm; do
            [ ! -d "${OFFICIAL:-}/$code" ] || official+=("--official-$code" "$OFFICIAL/$code")
        done
        "$python" -m benchmarks.speed --device cuda --size cifar --batch-size 128 --measures step sample_1 \
            --methods "${1#*_}" "${official[@]}" --variants contiguous bfloat16 bfloat16_channels_last bfloat16_compile \
            --json "$out/gpu_$1.json" ;;
    libraries)
        "$python" -m benchmarks.libraries --device cuda --size cifar --batch-size 128 --images 0 \
            --json "$out/gpu_libraries.json" ;;
    judges)
        "$python" -m benchmarks.train_feature_classifier cifar10 --seed 0 1 2 --device cuda \
            --train "$data/cifar10/train.parquet" --test "$data/cifar10/test.parquet" --out "$out"
        cp "$out"/cifar10*.safetensors evaluation/weights ;;
    diffusion_*) train "$1" 17 ;;
    ct_* | bcm_* | cd_*)
        from=$(checkpoint "diffusion_${1#*_}")
        if [ "${1%_*}" = cd ]; then from=(--model.init_args.teacher "$from"); else from=(--model.init_args.init_from "$from"); fi
        train "$1" "1 2" "${from[@]}" ;;
    ufogen_mnist) train "$1" "1 4" ;;
    ufogen_cifar10) train "$1" "1 4" --model.init_args.init_from "$(checkpoint diffusion_cifar10)" ;;
    restore_mnist) restore mnist 256 inpaint "upscale 2" unblur "jpeg 10" ;;
    restore_cifar10) restore cifar10 100 inpaint "upscale 2" unblur colourise "jpeg 10" ;;
    *) echo "gpu.sh: no stage $1" >&2 && exit 2 ;;
    esac
}

for name in "${@:-$ALL}"; do
    for one in $name; do
        if [ ! -e "$runs/gpu_$one.done" ]; then
            stage "$one" # not in a list: bash would go on past what fails in it
            date >"$runs/gpu_$one.done"
        fi
    done
done
