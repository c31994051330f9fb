#include "cli/json.h"

#include <math.h>
#include <stdio.h>

#include "cli/options.h"
#include "cli/terminal.h"

int json_print(json_t *object) {
    int failed = !object || json_dumpf(object, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(17)) != 0;
    json_decref(object);
    if (failed) {
        terminal_error("cannot write the JSON result");
        return EXIT_FAILED;
    }
    putchar('\n');
    return EXIT_DONE;
}

json_t *json_number(double value) { return isfinite(value) ? json_real(value) : json_null(); }
