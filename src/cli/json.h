/* JSON on stdout and in files, through Jansson. */
#ifndef PI0_CLI_JSON_H
#define PI0_CLI_JSON_H

#include <jansson.h>

/* Prints an object with numbers that read back as the same doubles, frees it, and returns the exit code. NULL (what
 * Jansson returns when there is no memory) is reported. */
int json_print(json_t *object);

/* A JSON number, or null for what JSON cannot say. */
json_t *json_number(double value);

#endif
