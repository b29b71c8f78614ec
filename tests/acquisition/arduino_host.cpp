// An Arduino on this machine: compiles the sketch as it is and runs it on a serial port.
//   g++ -I tests/acquisition/arduino -include SKETCH arduino_host.cpp; ./a.out PORT MICROS_AT_START
// Converter values count up, so that the row number is in the data. The device stays powered when its cable is
// pulled: what it cannot write is lost, and it tries the port again.

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#include "Arduino.h"

static const char *port;
static int descriptor = -1;
static uint64_t start_us;
static uint32_t conversions[2];
HostSerial Serial;

static uint64_t monotonic_us() {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (uint64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

uint32_t micros() { return (uint32_t)(monotonic_us() - start_us); }

int analogRead(int pin) { return conversions[pin]++ % 1024; }

void HostSerial::begin(uint32_t) {}

void HostSerial::write(uint8_t byte) { write(&byte, 1); }

void HostSerial::write(const uint8_t *data, uint8_t size) {
  if (descriptor < 0) {
    descriptor = open(port, O_WRONLY | O_NOCTTY | O_NONBLOCK);
    struct termios raw;
    if (descriptor >= 0 && tcgetattr(descriptor, &raw) == 0) {
      cfmakeraw(&raw);
      tcsetattr(descriptor, TCSANOW, &raw);
    }
  }
  if (descriptor >= 0 && ::write(descriptor, data, size) < 0 && errno != EAGAIN) {
    close(descriptor);
    descriptor = -1;
  }
}

int main(int, char **arguments) {
  port = arguments[1];
  start_us = monotonic_us() - strtoull(arguments[2], NULL, 10);
  setup();
  for (;;) {
    loop();
    usleep(200);
  }
}
