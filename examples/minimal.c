/* One inference of a small synthetic pi0 model: cc minimal.c $(pkg-config --cflags --libs pi0) -o minimal */
#include <pi0.h>
#include <stdint.h>
#include <stdio.h>

enum { HORIZON = 4, ACTION_DIM = 32, IMAGE_SIZE = 56 };

int main(void) {
    static uint8_t image[IMAGE_SIZE * IMAGE_SIZE * 3]; /* a black camera image */
    float state[ACTION_DIM] = {0}, noise[HORIZON * ACTION_DIM], actions[HORIZON * ACTION_DIM];
    const int32_t tokens[] = {2, 17, 42, 108};
    pi0_engine *engine = NULL;
    pi0_session *session = NULL;
    pi0_error error = {.status = PI0_OK};

    pi0_engine_options engine_options;
    pi0_engine_options_default(&engine_options);
    engine_options.model = PI0_MODEL_TINY_PI0; /* a real one: .checkpoint = "DIRECTORY" */
    engine_options.backend = PI0_BACKEND_CPU;
    pi0_status status = pi0_engine_open(&engine, &engine_options, &error);

    pi0_session_options session_options;
    pi0_session_options_default(&session_options, engine);
    session_options.horizon = HORIZON;
    if (status == PI0_OK) status = pi0_session_open(&session, engine, &session_options, &error);

    pi0_noise(0, noise, HORIZON * ACTION_DIM);
    const pi0_observation seen = {
        .images = {image}, .tokens = tokens, .token_count = 4, .state = state, .noise = noise};
    if (status == PI0_OK) status = pi0_session_infer(session, &seen, 1, actions, &error);

    if (status != PI0_OK) fprintf(stderr, "%s: %s\n", pi0_status_text(status), error.message);
    for (int row = 0; status == PI0_OK && row < HORIZON; row++)
        for (int i = 0; i < ACTION_DIM; i++)
            printf("%.5f%c", (double)actions[row * ACTION_DIM + i], i + 1 < ACTION_DIM ? ' ' : '\n');
    pi0_session_close(&session);
    pi0_engine_close(&engine);
    return status == PI0_OK ? 0 : 1;
}
