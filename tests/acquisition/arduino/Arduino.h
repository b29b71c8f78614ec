// The part of Arduino's API that the reference sketch uses; arduino_host.cpp implements it.
#pragma once
#include <stdint.h>

enum { A0 = 0, A1 = 1 };

struct HostSerial {
  void begin(uint32_t baud);
  void write(uint8_t byte);
  void write(const uint8_t *data, uint8_t size);
};

extern HostSerial Serial;
uint32_t micros();
int analogRead(int pin);
void setup();
void loop();
