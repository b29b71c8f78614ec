// Sends sensor values to Weld-4M as binary frames; what a frame holds: docs/serial_frames.md.
// To adapt: the five settings below and measure(). Everything else stays as it is.

#include <Arduino.h>
#include <string.h>

const uint32_t BAUD = 115200;
const uint32_t PERIOD_US = 5000;                   // 200 rows a second
const char CHANNELS[] = "current_a,voltage_v";     // as in the cell file, in the order of measure()
const uint8_t N_CHANNELS = 2;
const float FULL_SCALE[N_CHANNELS] = {800.0f, 100.0f};  // what 1023 of the converter means

void measure(float *values) {
  values[0] = analogRead(A0) * FULL_SCALE[0] / 1023.0f;
  values[1] = analogRead(A1) * FULL_SCALE[1] / 1023.0f;
}

enum { DESCRIPTION = 0, SAMPLES = 1, BEACON = 2 };
const uint8_t VERSION = 1;
const uint8_t LONGEST_BODY = 128;
uint8_t body[LONGEST_BODY];
uint8_t used;

void put(const void *data, uint8_t size) {         // every Arduino is little-endian, and so is the frame
  if (size > LONGEST_BODY - used) return;
  memcpy(body + used, data, size);
  used += size;
}

uint64_t now_us() {                                // micros() wraps after 71 minutes
  static uint32_t turns = 0, before = 0;
  const uint32_t now = micros();
  if (now < before) turns++;
  before = now;
  return ((uint64_t)turns << 32) | now;
}

uint16_t crc16() {                                 // CRC-16/CCITT-FALSE; of "123456789" it is 0x29b1
  uint16_t crc = 0xffff;
  for (uint8_t i = 0; i < used; i++) {
    crc ^= (uint16_t)body[i] << 8;
    for (uint8_t bit = 0; bit < 8; bit++) crc = crc & 0x8000 ? (crc << 1) ^ 0x1021 : crc << 1;
  }
  return crc;
}

void begin_frame(uint8_t type, uint32_t seq, uint64_t t_us) {
  used = 0;
  put(&type, 1);
  put(&seq, 4);
  put(&t_us, 8);
}

void send_frame() {
  const uint16_t crc = crc16();
  put(&crc, 2);
  static uint8_t line[LONGEST_BODY + 2];           // COBS adds one byte to fewer than 254, and the zero
  uint8_t code_at = 0, at = 1;
  for (uint8_t i = 0; i < used; i++) {
    if (body[i] != 0) {
      line[at++] = body[i];
    } else {
      line[code_at] = at - code_at;
      code_at = at++;
    }
  }
  line[code_at] = at - code_at;
  line[at++] = 0;
  Serial.write(line, at);
}

uint32_t rows = 0, seconds = 0;
uint64_t due_us, beacon_us;

void setup() {
  Serial.begin(BAUD);
  Serial.write((uint8_t)0);                        // ends whatever a reset cut off
  due_us = beacon_us = now_us();
}

void loop() {
  const uint64_t t_us = now_us();
  if (t_us >= due_us) {
    due_us += PERIOD_US;
    if (t_us >= due_us) due_us = t_us + PERIOD_US;  // too slow for the rate: no burst afterwards
    float values[N_CHANNELS];
    measure(values);
    begin_frame(SAMPLES, rows++, t_us);
    put(values, sizeof values);
    send_frame();
  }
  if (t_us >= beacon_us) {
    beacon_us += 1000000;
    begin_frame(BEACON, rows, t_us);
    put(&seconds, 4);
    send_frame();
    seconds++;
    const float rate_hz = 1e6f / PERIOD_US;
    const char format = 'f';                       // float32; 'h' for int16
    begin_frame(DESCRIPTION, rows, t_us);
    put(&VERSION, 1);
    put(&format, 1);
    put(&rate_hz, 4);
    put(CHANNELS, sizeof CHANNELS - 1);
    send_frame();
  }
}
