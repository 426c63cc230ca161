#!/usr/bin/env bash
# PretrainZero from a Wikipedia dump to a better Hugging Face model, in one command on a CPU.
#
#   ./examples/quickstart.sh [--model DIR] [--dump FILE …] [--steps N] [--output DIR] [--nproc N] [--resume]
#
#   --model DIR     a Hugging Face directory (Llama or Qwen3) to start from; default: SmolLM2-135M-Instruct, fetched
#   --dump FILE …   MediaWiki dumps (.xml, .xml.bz2, .xml.gz) or articles (.jsonl: id, title, text); default: a dump
#                   excerpt and ten thousand article leads of the English Wikipedia, fetched
#   --steps N       steps of reinforcement learning; default 17
#   --output DIR    directory of results, which must be new; default runs/quickstart-DATE-TIME
#   --nproc N       processes, each with a shard of the batch and a rollout engine; default 1, with a thread a core
#   --resume        continue the interrupted run in --output
#
# It sets up .venv/, fetches model and text, makes passages, teaches both answer formats by a short supervised cold start,
# runs PretrainZero, exports the model, and evaluates before and after on held-out passages. It first prints its precision
# on this machine and the expected duration. Results that do not depend on --steps are cached in .cache/quickstart, so
# that a second call starts with reinforcement learning. The settings are in examples/quickstart/config.yaml.
set -euo pipefail

phases=8
evaluation_passages=160
evaluation_samples=(--masks-per-passage 1 --predictions-per-mask 4 --samples-per-repeated-word 2 --samples-per-once-word 0)

main() {
  here=$PWD
  cd "$(dirname "${BASH_SOURCE[0]}")/.."
  parse_flags "$@"
  began=$SECONDS
  phase_began=$SECONDS

  phase 1 "environment"
  ./examples/setup_environment.sh
  set_up_processes
  python -m megatron_pz.config.parse "${settings[@]}" --hf-model "$root" --data-path unchecked --save "$output"
  precision=$(python examples/quickstart/plan.py --steps "$steps" --processes "$processes")

  phase 2 "model and text"
  fetch

  phase 3 "passages"
  make_passages

  phase 4 "supervised cold start"
  cold_start

  phase 5 "evaluation of the base model and the cold start, on $evaluation_passages held-out passages"
  evaluate_before

  phase 6 "PretrainZero, $steps steps"
  pretrain_zero

  phase 7 "export to $output/hf_model"
  python tools/convert_checkpoint.py megatron-to-hf --load "$output/run" --hf-model "$cold" --save "$output/hf_model"

  phase 8 "evaluation of the exported model, served by vLLM"
  evaluate "after RL" "$output/hf_model" "$output/evaluations/after_rl.json"
  report
}

fail() {
  echo "error: $*" >&2
  exit 2
}

parse_flags() {
  local dump
  root=$PWD config=examples/quickstart/config.yaml cache=$PWD/.cache/quickstart
  model='' dumps=() steps=17 output='' resume=false
  processes=1
  while (($#)); do
    case $1 in
      -h | --help) sed -n '2,/^[^#]/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" && exit ;;
      --resume) resume=true && shift ;;
      --dump)
        shift
        while (($#)) && [[ $1 != --* ]]; do dumps+=("$(absolute "$1")") && shift; done
        ((${#dumps[@]})) || fail "--dump needs at least one file"
        ;;
      --model | --steps | --output | --nproc)
        if (($# < 2)) || [[ $2 == --* ]]; then fail "$1 needs a value"; fi
        case $1 in
          --model) model=$(absolute "$2") ;;
          --steps) steps=$2 ;;
          --output) output=$(absolute "$2") ;;
          --nproc) processes=$2 ;;
        esac
        shift 2
        ;;
      *) fail "unknown flag '$1' (--help lists the flags)" ;;
    esac
  done
  [[ $steps =~ ^[1-9][0-9]*$ ]] || fail "--steps $steps: give a whole number of at least 1"
  [[ $processes =~ ^[1-9][0-9]*$ ]] || fail "--nproc $processes: give a whole number of at least 1"
  [[ -z $model || -f $model/config.json ]] || fail "--model $model: no config.json there; give a Hugging Face directory"
  [[ -z $model || -f $model/tokenizer.json || -f $model/tokenizer.model ]] ||
    fail "--model $model: no tokenizer.json there; give the model's directory with its tokenizer"
  for dump in "${dumps[@]}"; do
    [[ -f $dump ]] || fail "--dump $dump: no such file"
  done
  if $resume; then
    [[ -n $output && -f $output/run/latest_checkpointed_iteration.txt ]] ||
      fail "--resume needs the --output of an interrupted run that holds a checkpoint"
  elif [[ -n $output && -e $output ]]; then
    fail "--output $output exists; give a new folder, or --resume to continue an interrupted run"
  fi
  output=${output:-$PWD/runs/quickstart-$(date +%Y%m%d-%H%M%S)}
  settings=(--config "$config" --train-iters "$steps")
}

absolute() {
  (cd "$here" && realpath -m -- "$1")
}

phase() {
  if (($1 > 1)); then echo "    $((SECONDS - phase_began)) s"; fi
  phase_began=$SECONDS
  printf '\n[%d/%d] %s\n' "$1" "$phases" "$2"
}

set_up_processes() {
  export PATH="$root/.venv/bin:$PATH"
  cores=$(env -u OMP_NUM_THREADS nproc) # nproc prints OMP_NUM_THREADS where that is set
  local threads=$((cores / processes))
  export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((threads > 0 ? threads : 1))}
  # Threads that wait for each other sleep soon instead of spinning: beside other processes they would spin for one that
  # has no core. docs/development.md has the figures.
  export GOMP_SPINCOUNT=${GOMP_SPINCOUNT:-1000}
  export TOKENIZERS_PARALLELISM=false HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1 VLLM_NO_USAGE_STATS=1 DO_NOT_TRACK=1
  export PYTHONWARNINGS=${PYTHONWARNINGS:-ignore} TORCH_CPP_LOG_LEVEL=${TORCH_CPP_LOG_LEVEL:-ERROR}
  export GLOO_SOCKET_IFNAME=${GLOO_SOCKET_IFNAME:-lo}
  export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=${TORCH_ELASTIC_SHUTDOWN_TIMEOUT:-120} # Ctrl-C: time to save a checkpoint
}

# Run a module or a script of the project on all processes.
distributed() {
  if ((processes == 1)); then
    python "$@"
    return
  fi
  python -m torch.distributed.run --nnodes=1 --nproc-per-node="$processes" --rdzv-backend=c10d \
    --rdzv-endpoint=localhost:0 --local-addr=127.0.0.1 "$@"
}

# A short name for what a cached result was made from: the text of the arguments.
key_of() {
  printf '%s\n' "$@" | sha256sum | cut -c 1-12
}

# Names, sizes and dates of files, or of the files in folders.
state_of() {
  find "$@" -maxdepth 1 -type f -printf '%p %s %T@\n' | sort
}

fetch() {
  if [[ -z $model || ${#dumps[@]} -eq 0 ]]; then python tools/fetch_quickstart_assets.py --output "$cache/assets"; fi
  model=${model:-$cache/assets/model}
  if ((${#dumps[@]} == 0)); then dumps=("$cache/assets/enwiki.xml.bz2" "$cache/assets/leads.jsonl"); fi
}

# A passage is the first whole sentences of a paragraph, 28 to 60 words. A tenth of the articles is held out by a hash of
# the title.
make_passages() {
  local options=(--split '90,10' --passage-unit lead_sentences --max-passage-tokens 120)
  options+=(--min-passage-words 28 --max-passage-words 60)
  data_key=$(key_of "${options[@]}" "$(state_of "${dumps[@]}")" "$(state_of "$model"/tokenizer*)")
  local made=$cache/passages-$data_key
  if [[ ! -d $made ]]; then
    rm -rf "$made.partial"
    python tools/preprocess_wikipedia.py --input "${dumps[@]}" --tokenizer-model "$model" \
      --output-prefix "$made.partial/wikipedia" --workers "$cores" "${options[@]}" | grep -v '^--data-path '
    mv "$made.partial" "$made"
  fi
  train_data=$made/wikipedia_train_text_passage
  valid_data=$made/wikipedia_valid_text_passage
}

cold_start() {
  model_key=$(key_of "$(state_of "$model")")
  local made
  made=$cache/cold_start-$(key_of "$(<"$config")" "$model_key" "$data_key" "$processes" "$precision")
  cold=$made/hf
  if [[ -d $made ]]; then
    echo "kept from an earlier call: $cold"
    return
  fi
  rm -rf "$made.partial"
  distributed -m megatron_pz.cold_start "${settings[@]}" --precision "$precision" --hf-model "$model" \
    --data-path "$train_data" --save "$made.partial"
  mv "$made.partial" "$made"
}

# evaluate NAME MODEL FILE [NAME MODEL FILE …]; a file that is there already is kept.
evaluate() {
  local names=() models=() files=()
  while (($#)); do
    if [[ ! -f $3 ]]; then
      names+=("$1") models+=("$2") files+=("$3")
    fi
    shift 3
  done
  ((${#files[@]})) || return 0
  distributed tools/evaluate.py --config "$config" --precision "$precision" --valid-data-path "$valid_data" --passages "$evaluation_passages" \
    "${evaluation_samples[@]}" --hf-model "${models[@]}" --name "${names[@]}" --output "${files[@]}"
}

evaluate_before() {
  local rules asked_key
  rules=$(<"$config")
  asked_key=$(key_of "$rules" "$model_key" "$data_key" "$evaluation_passages" "${evaluation_samples[@]}" "$precision")
  base_evaluation=$cache/evaluations/base-$asked_key.json
  cold_evaluation=$cache/evaluations/$(basename "$(dirname "$cold")")-$asked_key.json
  evaluate "base" "$model" "$base_evaluation" "cold start" "$cold" "$cold_evaluation"
}

pretrain_zero() {
  local from=(--precision "$precision")
  if $resume; then from=(--load "$output/run"); fi # in the precision of its checkpoint
  mkdir -p "$output/evaluations"
  cp "$base_evaluation" "$output/evaluations/base.json"
  cp "$cold_evaluation" "$output/evaluations/cold_start.json"
  trap : INT # the run saves a checkpoint and ends; this script then says how to continue
  if ! distributed -m megatron_pz.train "${settings[@]}" --hf-model "$cold" --data-path "$train_data" \
    --save "$output/run" "${from[@]}"; then
    if [[ -f $output/run/latest_checkpointed_iteration.txt ]]; then
      echo "stopped at iteration $(<"$output/run/latest_checkpointed_iteration.txt"); the same command with" \
        "--output $output --resume continues it" >&2
    fi
    exit 1
  fi
  trap - INT
}

report() {
  echo
  python tools/report.py --run "$output/run" --output "$output" \
    --evaluations "$output"/evaluations/{base,cold_start,after_rl}.json
  echo
  echo "The exported model under transformers, on a paragraph of its own:"
  local text="The Danube rises in the Black Forest and flows through ten countries into the Black Sea. Vienna, Budapest \
and Belgrade all lie on the Danube, and in Roman times the river was the frontier of the empire."
  python tools/play.py --config "$config" --hf-model "$output/hf_model" --text "$text"
  cat <<RESULTS

Done in $(((SECONDS - began) / 60)) min $(((SECONDS - began) % 60)) s. Results in $output:
  hf_model/                       the model, for transformers and vLLM
  results.txt evaluation.png      the table above, and as a picture
  curves.png                      the run: rewards, validity, lengths, entropy, time
  report.html                     a page to open: curves, every kept mask with its predictions, difficulty
  run/samples/                    masks and predictions to read, a page a step
  run/metrics.jsonl tensorboard/  every figure of every step

Next, more steps (the cold start is kept), or a paragraph of your own:
  ./examples/quickstart.sh --steps 100
  .venv/bin/python tools/play.py --config $config --hf-model $output/hf_model --text "…"
RESULTS
}

main "$@"
