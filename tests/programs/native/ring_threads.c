/* native/ring.h under ThreadSanitizer, without Python: `make sanitize`.

   A producer and a consumer thread on one small ring, with frames of all sizes that wrap, and both kinds of
   sleep: each announces, fences, looks again, and waits for a semaphore that the other posts, as wait.h
   and producer.h do. A lost wake-up is a hang, which the caller's time limit ends; a frame lost, doubled,
   reordered or altered ends the program with 1; a race is ThreadSanitizer's to report. */

#include <pthread.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>

#include "../../../src/shmchannel/native/ring.h"

enum { CAPACITY = 256, LONGEST = 120 };

static long messages;
static _Alignas(64) uint64_t memory[(CONTROL_SIZE + CAPACITY) / 8];
static sem_t items, space;
static unsigned long sleeps[2];

static Ring new_end(void)
{
    return (Ring){.control = (Word *)memory, .data = (uint8_t *)memory + CONTROL_SIZE, .capacity = CAPACITY};
}

static void fill(uint8_t *bytes, size_t length, long number)
{
    for (size_t i = 0; i < length; i++)
        bytes[i] = (uint8_t)(number * 31 + (long)i);
}

static void die(const char *what, long number)
{
    fprintf(stderr, "message %ld: %s\n", number, what);
    exit(1);
}

static void wait_for_space(Ring *ring, uint64_t size)
{
    atomic_store(writer_need(ring, WRITER_SLEEPS), (uint32_t)(size / NEED)); /* announce */
    atomic_thread_fence(memory_order_seq_cst);
    if (ring_room(ring, size) == RING_FULL) { /* look again */
        sleeps[0]++;
        sem_wait(&space);
    }
    atomic_store(writer_need(ring, WRITER_SLEEPS), 0);
}

static void *produce(void *unused)
{
    Ring ring = new_end();
    uint8_t bytes[LONGEST];
    for (long number = 0; number < messages; number++) {
        size_t length = (size_t)(number * 7 % LONGEST);
        fill(bytes, length, number);
        while (ring_room(&ring, frame_size(length)) == RING_FULL)
            wait_for_space(&ring, frame_size(length));
        Piece pieces[2] = {{bytes, length / 3}, {bytes + length / 3, length - length / 3}};
        ring_fill(&ring, length, WHOLE, pieces, 2);
        ring_publish(&ring, ring.tail + frame_size(length), (uint64_t)number + 1);
        atomic_thread_fence(memory_order_seq_cst);
        if (load(&ring, READER) && atomic_load(reader_flag(&ring, READER_SLEEPS))) {
            atomic_store(reader_flag(&ring, READER_SLEEPS), 0);
            sem_post(&items);
        }
    }
    store(&ring, PRODUCER_CLOSED, 1);
    sem_post(&items);
    return unused;
}

static void wait_for_items(Ring *ring)
{
    atomic_store(reader_flag(ring, READER_SLEEPS), 1); /* announce */
    atomic_thread_fence(memory_order_seq_cst);
    if (!ring_readable(ring)) { /* look again */
        sleeps[1]++;
        sem_wait(&items);
    }
    atomic_store(reader_flag(ring, READER_SLEEPS), 0);
}

static void *consume(void *unused)
{
    Ring ring = new_end();
    uint8_t bytes[LONGEST], expected[LONGEST];
    for (long number = 0;;) {
        Frame frame;
        bool closed = load(&ring, PRODUCER_CLOSED);
        RingAnswer answer = ring_next(&ring, &frame);
        if (answer == RING_CORRUPTED)
            die("corrupted", number);
        if (answer == RING_EMPTY) {
            if (closed) {
                if (number != messages)
                    die("the end came early", number);
                return unused;
            }
            wait_for_items(&ring);
            continue;
        }
        if (frame.length != (size_t)(number * 7 % LONGEST))
            die("another length", number);
        ring_copy_out(&ring, ring.head + HEADER, bytes, frame.length);
        fill(expected, frame.length, number);
        if (memcmp(bytes, expected, frame.length))
            die("altered", number);
        ring_consume(&ring, frame.after);
        atomic_thread_fence(memory_order_seq_cst);
        uint32_t need = atomic_load(writer_need(&ring, WRITER_SLEEPS));
        if (need && need * NEED <= CAPACITY - HEADER - (ring.tail - ring.head)) {
            atomic_store(writer_need(&ring, WRITER_SLEEPS), 0);
            sem_post(&space);
        }
        number++;
    }
}

int main(int count, char **arguments)
{
    pthread_t threads[2];
    messages = count > 1 ? atol(arguments[1]) : 200000;
    sem_init(&items, 0, 0);
    sem_init(&space, 0, 0);
    pthread_create(&threads[0], NULL, produce, NULL);
    pthread_create(&threads[1], NULL, consume, NULL);
    for (int i = 0; i < 2; i++)
        pthread_join(threads[i], NULL);
    printf("%ld messages; the writer slept %lu times, the reader %lu times\n", messages, sleeps[0], sleeps[1]);
    return 0;
}
