/* pi0 devices: the backends of this build and the devices each one finds. */
#include <jansson.h>
#include <stdio.h>

#include "cli/commands.h"
#include "cli/json.h"
#include "cli/options.h"
#include "cli/terminal.h"

enum { MAX_DEVICES = 64 };

static json_t *device_json(const pi0_device_info *device) {
    json_t *entry =
        json_pack("{s:s, s:i, s:s, s:s, s:s, s:I, s:i, s:b}", "backend", options_backend_name(device->backend), "index",
                  device->index, "name", device->name, "arch", device->arch, "features", device->features,
                  "memory_bytes", (json_int_t)device->memory_bytes, "units", device->units, "usable", device->usable);
    if (entry && !device->usable) json_object_set_new(entry, "reason", json_string(device->reason));
    return entry;
}

static void print_device(const pi0_device_info *device) {
    printf("%s:%d  %s\n", options_backend_name(device->backend), device->index,
           device->name[0] ? device->name : "no device");
    if (!device->usable) {
        printf("    not usable: %s\n", device->reason);
        return;
    }
    printf("    arch      %s\n", device->arch);
    printf("    features  %s\n", device->features);
    printf("    memory    %.1f GB\n", (double)device->memory_bytes * 1e-9);
    printf("    %-8s  %d\n", device->backend == PI0_BACKEND_CPU ? "cores" : "units", device->units);
}

int command_devices(int argc, char **argv) {
    common_options common = common_options_default();
    const command_line line = {
        .name = "devices",
        .summary = "backends and devices found, with what each can do",
        .description = "Lists every backend of this build. One that cannot run here is listed with the reason.",
        .examples = "  pi0 devices           which CPU kernels and which GPUs will be used\n"
                    "  pi0 devices --json    the same for scripts\n",
        .groups = (const option_group[]){{NULL, NULL}},
        .common = &common,
    };
    int exit_code;
    if (!options_parse(&line, argc, argv, &exit_code)) return exit_code;

    pi0_device_info devices[MAX_DEVICES] = {0};
    for (int i = 0; i < MAX_DEVICES; i++) devices[i].struct_size = sizeof devices[i];
    int count = 0;
    pi0_error error;
    if (pi0_devices(devices, MAX_DEVICES, &count, &error) != PI0_OK) return terminal_fail(&error);
    if (count > MAX_DEVICES) count = MAX_DEVICES;
    if (!common.json) {
        for (int i = 0; i < count; i++) print_device(&devices[i]);
        return EXIT_DONE;
    }
    json_t *list = json_array();
    for (int i = 0; i < count; i++) json_array_append_new(list, device_json(&devices[i]));
    return json_print(json_pack("{s:o}", "devices", list));
}
