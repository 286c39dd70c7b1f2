#!/bin/sh
# Runs fuzz targets under libFuzzer, each for TIME seconds, and tells what came of it.
#
#   TIME=60 TARGET= tests/fuzz/run.sh        all of them, or those with TARGET in their names
#   INPUT=FILE TARGET=name tests/fuzz/run.sh  one input again
#
# What is found on the way is kept in build/fuzz/corpus and is where the next run goes on; inputs that fail are kept in build/fuzz/found.
set -eu

time=${TIME:-60} wanted=${TARGET:-}
out=build/fuzz
triple=x86_64-unknown-linux-gnu
target_dir=${CARGO_TARGET_DIR:-target}/fuzz

# What cargo-fuzz sets with --sanitizer none, which a stable compiler takes: counters at each edge of the code, and the operands of comparisons.
export RUSTFLAGS="--cfg fuzzing -Cpasses=sancov-module -Ccodegen-units=1 \
	-Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
	-Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares"
echo "fuzz: building" >&2
cargo build --locked --quiet --package fuzz --features libfuzzer --profile fuzz --target $triple --target-dir "$target_dir"
fuzz=$target_dir/$triple/fuzz/fuzz

if [ -n "${INPUT:-}" ]; then
	FUZZ_TARGET=$wanted RUST_BACKTRACE=1 exec "$fuzz" "$INPUT"
fi

mkdir -p $out/corpus $out/found $out/logs
printf '%-18s %14s %10s %8s %8s %8s\n' target executions 'a second' 'edges' 'of them' 'inputs'
printf '%-18s %14s %10s %8s %8s %8s\n' '' '' '' 'before' 'new' 'kept'
failed=""
total=0
for folder in tests/fuzz/corpus/*/; do
	name=$(basename "$folder")
	case $name in *"$wanted"*) ;; *) continue ;; esac
	mkdir -p "$out/corpus/$name"
	log=$out/logs/$name
	status=0
	# A simulated machine is slow to build up, and takes what it likes of memory.
	FUZZ_TARGET=$name RUST_BACKTRACE=1 "$fuzz" -max_total_time="$time" -timeout=60 -rss_limit_mb=2048 -max_len=4096 -print_final_stats=1 \
		-artifact_prefix="$out/found/$name-" \
		"$out/corpus/$name" "$folder" >"$log" 2>&1 || status=$?
	executions=$(awk '/number_of_executed_units/ { print $2 }' "$log" | tail -1)
	before=$(awk '/INITED cov:/ { print $4; exit }' "$log")
	after=$(awk '/ cov: [0-9]/ { for (i = 1; i < NF; i++) if ($i == "cov:") edges = $(i + 1) } END { print edges }' "$log")
	total=$((total + ${executions:-0}))
	printf '%-18s %14s %10s %8s %8s %8s\n' "$name" "${executions:-?}" "$((${executions:-0} / (time > 0 ? time : 1)))" \
		"${before:-?}" "$((${after:-0} - ${before:-0}))" "$(find "$out/corpus/$name" -type f | wc -l)"
	if [ "$status" -ne 0 ]; then
		failed="$failed $name"
		grep -E 'panicked at|ERROR: libFuzzer|Test unit written' -A2 "$log" | head -12 >&2 || true
	fi
done
echo "$total executions in all"
if [ -n "$failed" ]; then
	echo "fuzz: found something in$failed; logs are in $out/logs, inputs in $out/found" >&2
	echo "fuzz: again with: make fuzz TARGET=name INPUT=$out/found/name-…" >&2
	exit 1
fi
