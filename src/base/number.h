/* Elements of numpy arrays by kind ('b' 'i' 'u' 'f') and size, little-endian and maybe unaligned. */
#ifndef PI0_BASE_NUMBER_H
#define PI0_BASE_NUMBER_H

#include <stddef.h>
#include <stdint.h>

/* One element as double; 0 for kinds that are no numbers. */
double number_read(char kind, int item_bytes, const void *item);

double half_to_double(uint16_t half);
/* Round to nearest, ties to even; overflow to infinity. */
uint16_t half_from_double(double value);

/* "float32 [50, 32]"; also for text ('U') and bytes ('S'). Writes into text[size] and returns it. */
char *number_describe(char kind, int item_bytes, int rank, const int64_t *shape, char *text, size_t size);

#endif
