#!/usr/bin/env bash
# What to run where a GPU is lent, in order of worth; every stage takes less than ten minutes and is left out once its
# result is there, and a training goes on from its last checkpoint, so the same line can be typed until all is done:
#
#   DATA=shared/data/cifar10 OUT=$OUT bash benchmarks/gpu.sh                  all stages
#   DATA=... OUT=... bash benchmarks/gpu.sh checks speed                      some
#
#   DATA        folder with CIFAR-10's train.parquet and test.parquet
#   OUT         where results are written; benchmarks/results by default
#   RUNS        where trainings are; runs by default
#   IMAGES      training images of every method; 1,500,000 by default, some minutes each on an H100
#   INCEPTION   torch-fidelity's weights; without them there are samples and no scores
#   PYTHON      python3 by default
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3} out=${OUT:-benchmarks/results} runs=${RUNS:-runs} images=${IMAGES:-1500000}
mkdir -p "$out"

# a smaller DDPM++ than the papers', so that its averaged weights can be kept (10 M parameters)
network=(--model.init_args.network.init_args.channels=96 --model.init_args.network.init_args.num_blocks=2)
network+=(--model.init_args.network.init_args.channel_mult="[1,2,2]")
judge=(--model.init_args.discriminator.init_args.channels=96 --model.init_args.discriminator.init_args.num_blocks=2)
judge+=(--model.init_args.discriminator.init_args.channel_mult="[1,2,2]")
common=(--model.init_args.total_images="$images" --trainer.default_root_dir="$runs" --data.init_args.path="${DATA:-}")

train() { # METHOD [OPTION ...]: fit configs/METHOD_cifar10.yaml, or go on with it
    local method=$1 last="$runs/$1_cifar10/000/checkpoints/last.ckpt"
    if [ -f "$last" ]; then
        "$python" main.py fit --ckpt_path "$last"
    else
        "$python" main.py fit --config "configs/$1_cifar10.yaml" "${network[@]}" "${common[@]}" "${@:2}"
    fi
    for steps in ${STEPS:-1 2}; do
        "$python" main.py sample --ckpt_path "$last" --seeds 0-63 --steps "$steps" --out "$out/${method}_$steps"
        mv "$out/${method}_$steps/grid.png" "$out/gpu_${method}_$steps.png" && rm -r "$out/${method}_$steps"
    done
    [ -z "${INCEPTION:-}" ] || "$python" main.py test --ckpt_path "$last" --scores.inception_weights "$INCEPTION"
}

stage() {
    local from="$runs/diffusion_cifar10/000/checkpoints/last.ckpt"
    case $1 in
    checks) "$python" -m benchmarks.gpu_checks --size cifar --json "$out/gpu_checks.json" ;;
    speed)
        "$python" -m benchmarks.speed --device cuda --size cifar --batch-size 128 \
            --variants float32 bfloat16 bfloat16_channels_last bfloat16_compile --json "$out/gpu_speed.json" ;;
    diffusion) STEPS=17 train diffusion --model.init_args.compile=true ;;
    ct) train ct --model.init_args.compile=true --model.init_args.init_from="$from" ;;
    bcm) train bcm --model.init_args.compile=true ;;
    cd) # LPIPS's network would be downloaded
        train cd --model.init_args.compile=true --model.init_args.teacher="$from" \
            --model.init_args.distance=diffusion.distances.SquaredL2 ;;
    ufogen)
        STEPS="1 4" train ufogen "${judge[@]}" --model.init_args.init_from="$from" \
            --model.init_args.discriminator_init_from="$from" ;;
    *) echo "gpu.sh: no stage $1" >&2 && exit 2 ;;
    esac
}

for name in "${@:-checks speed diffusion ct bcm cd ufogen}"; do
    for one in $name; do
        [ -e "$out/gpu_$one.done" ] || { stage "$one" && date >"$out/gpu_$one.done"; }
    done
done
