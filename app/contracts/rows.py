"""The rows that a trainer reads: Arrow streams in a job's data folder, written once by the checker.

data/train.arrow, data/eval.arrow    Arrow IPC stream format, one row a kept record, in the order of the source
data/tokenizer/                      the job's tokenizer and chat template, for checker, trainer and engine
data/train.json, data/eval.json      the `TokenReport` of each
data/prepared.json                   `Prepared`: what the rows were made from
data/base.json                       the `ModelCard` of the base

| column     | type        | meaning                                                                  |
|------------|-------------|--------------------------------------------------------------------------|
| record     | int32       | number of the record in its source, from 1                                |
| input_ids  | list<int32> | token ids, cut to max_seq_length                                          |
| labels     | list<int32> | the id where a token carries loss, -100 elsewhere; as long as input_ids  |
| cut        | int32       | how many tokens were cut off at the end                                   |
| supervised | int32       | how many of its tokens carry loss                                        |
| digest     | int64       | hash of input_ids: equal rows have equal ones                             |

A training method may have further columns (`app.contracts.methods.method.TrainingMethod.columns`).
"""

IGNORED = -100
RECORD, INPUT_IDS, LABELS, CUT, SUPERVISED, DIGEST = "record", "input_ids", "labels", "cut", "supervised", "digest"
COLUMNS = frozenset({RECORD, INPUT_IDS, LABELS, CUT, SUPERVISED, DIGEST})
TRAIN_ROWS, EVAL_ROWS, TOKENIZER = "train.arrow", "eval.arrow", "tokenizer"
TRAIN_REPORT, EVAL_REPORT, PREPARED, BASE_CARD = "train.json", "eval.json", "prepared.json", "base.json"
