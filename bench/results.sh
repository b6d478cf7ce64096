#!/bin/sh
# Measures what bench/report.md is made of. $1 is the Python to measure with; what is measured is bench/peers.py's.
set -eu

measure() {
    output=$1 mode=$2
    shift 2
    "$python" -m "$mode" "$@" --output "bench/results/$output.json"
}
python=$1
same="--server shimmy --server llama-server"
defaults="--server shimmy --server llama-server-defaults"
both="$same --server llama-server-defaults"

measure footprint bench.footprint --rounds 6
# Before the next one, which has more rounds: of two documents with a figure, the report takes the later.
measure contended bench $same --rounds 3 --streams 1 --max-tokens 64 --contend
measure start bench $both --rounds 6 --streams 1 --max-tokens 32
measure baseline bench --server shimmy --server fastapi --server fastapi-tuned --rounds 4 --streams 1
measure pairs bench.pairs $same --streams 1 4 8 16 --pairs 5 --max-tokens 96
measure pairs-defaults bench.pairs $defaults --streams 1 4 8 16 --pairs 4 --max-tokens 96
measure gaps bench.gaps $both --rounds 3
# With flags like ours llama-server fails here: 16 prompts of 1,000 tokens do not fit into 8,192 cells unless shared.
measure prefixes bench.prefixes $defaults --rounds 3
measure restarts bench.prefixes $same --rounds 3 --restart
measure catalogue bench.catalogue --rounds 15 --among
measure arrivals bench.catalogue --rounds 0
