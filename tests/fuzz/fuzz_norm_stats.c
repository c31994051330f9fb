/* norm_stats.json from a stranger: parsed, and used both ways on a state of 14 and actions of 32. */
#include "policy/norm_stats.h"
#include "policy/normalise.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    norm_stats stats;
    pi0_error error;
    if (norm_stats_parse(&stats, (const char *)data, size, "fuzzed", &error) != PI0_OK) return 0;
    for (size_t i = 0; i < stats.count; i++) {
        const norm_entry *entry = &stats.entries[i];
        double state[14] = {1}, actions[2 * 32] = {2};
        norm_forward(NORM_ZSCORE, entry, state, 14, &error);
        norm_inverse(NORM_ZSCORE, entry, actions, 2, 32, true, &error);
        if (!entry->q01.values || !entry->q99.values) continue; /* a quantile policy is not made of these */
        norm_forward(NORM_QUANTILE, entry, state, 14, &error);
        norm_inverse(NORM_QUANTILE, entry, actions, 2, 32, true, &error);
    }
    norm_stats_release(&stats);
    return 0;
}
