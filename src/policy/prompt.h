/*
 * A task's text, and for pi0.5 the state, to the token ids the model gets (openpi models/tokenizer.py; lerobot's
 * pi0 and pi05 processors).
 */
#ifndef PI0_POLICY_PROMPT_H
#define PI0_POLICY_PROMPT_H

#include "base/status.h"
#include "policy/tokenizer.h"

enum { PROMPT_BOS = 2, PROMPT_PAD = 0 };

typedef enum prompt_format {
    PROMPT_PLAIN,         /* BOS, text, newline encoded on its own: pi0, and pi0.5 without discrete state */
    PROMPT_STATE,         /* BOS, "Task: text, State: bins;\nAction: ": pi0.5, openpi's and lerobot's */
    PROMPT_LEROBOT_PLAIN, /* BOS, text as it is, ending in one newline at least: lerobot's pi0 */
} prompt_format;

typedef struct prompt_tokens {
    int valid;         /* ids that are not padding, BOS included */
    size_t full_count; /* ids there would be without a limit */
    bool truncated;    /* full_count > max_tokens: cut at the end; the caller warns */
} prompt_tokens;

/*
 * ids: int32 [max_tokens], padded with PROMPT_PAD; mask: bool [max_tokens], true for the first `valid`; NULL: not
 * wanted. text: UTF-8 of `length` bytes, may hold NUL and be empty; anything but UTF-8 is refused. state: normalised,
 * read by PROMPT_STATE only; state_count may be 0.
 */
pi0_status prompt_tokenize(prompt_tokens *result, int32_t *ids, bool *mask, int max_tokens, const tokenizer *tokenizer,
                           prompt_format format, const char *text, size_t length, const double *state,
                           size_t state_count, pi0_error *error);

/* numpy.digitize(v, linspace(-1, 1, 257)[:-1]) - 1: -1 .. 255; NaN: 255. */
int prompt_state_bin(double v);

/* openpi's clean-up in place: strips Unicode white space at both ends, turns '_' and newline into blanks. text: valid
 * UTF-8, not NUL-terminated. *start: what is left begins there; returns its length. */
size_t prompt_clean(char *text, size_t length, char **start);

#endif
