/* One ring of a channel with its two ends, for Spin: README.md says what is modelled and what is not.

   A label is the name of a step. The code names the same steps ("step: publish_tail"), and
   tests/test_model.py compares the two. -DWITHOUT_x takes a step out: check.py does so with each
   fence, re-check and post, and wants an error each time. */

#ifndef CAPACITY
#define CAPACITY 2 /* cells */
#endif
#ifndef MESSAGES
#define MESSAGES 4
#endif
#ifdef MIXED /* frames of two cells and of one, in turn */
#define SIZE(n) 1 + (n) % 2
#else
#define SIZE(n) 1
#endif
#ifndef QUARTER
#define QUARTER 1 /* cells that a writer asks for at least */
#endif
#ifndef SLICES
#define SLICES 0 /* sleeps that may end by themselves, in all: too few to hide a wake-up that is lost */
#endif

/* -- memory: a store goes through the buffer of its thread. Nobody loads what may still be in his own
      buffer: a side loads what the other stores, and a flag only after the post behind its clearing. */

#define PRODUCER 0
#define CONSUMER 1
#define CLOSER 2 /* another thread of one of the two sides */
#define NOBODY 3

#define TAIL 0
#define HEAD 1
#define READER_SLEEPS 2
#define WRITER_SLEEPS 3
#define PRODUCER_CLOSED 4
#define CONSUMER_CLOSED 5
#define CELL 6
#define WORDS (CELL + CAPACITY)

byte memory[WORDS];
chan buffer[3] = [4] of { byte, byte }; /* where, what */

#ifdef WEAK
/* What a thread has seen of each word. A load may be answered by that, as if it had come earlier; a fence
   makes all of it new. Stores to one word stay in order, others may overtake each other. */
byte seen[3 * WORDS];
byte word;

inline look(where, into)
{
    if
    :: into = seen[me * WORDS + where]
    :: d_step { seen[me * WORDS + where] = memory[where]; into = memory[where] }
    fi
}

inline refresh()
{
    word = 0;
    do
    :: word < WORDS -> seen[me * WORDS + word] = memory[word]; word++
    :: else -> break
    od;
    word = 0
}

#define STORED(where, what) ; seen[me * WORDS + where] = what
#else
inline look(where, into) { into = memory[where] }
inline refresh() { skip }
#define STORED(where, what)
#endif

inline store(where, what) { d_step { buffer[me]!where, what STORED(where, what) } }

inline fence() { d_step { len(buffer[me]) == 0 -> refresh() } }

proctype drain(byte whose)
{
    byte where, what;
end_drain:
    do
#ifdef WEAK
    :: d_step { buffer[whose]??TAIL, what -> memory[TAIL] = what; what = 0 }
    :: d_step { buffer[whose]??HEAD, what -> memory[HEAD] = what; what = 0 }
    :: d_step { buffer[whose]??READER_SLEEPS, what -> memory[READER_SLEEPS] = what; what = 0 }
    :: d_step { buffer[whose]??WRITER_SLEEPS, what -> memory[WRITER_SLEEPS] = what; what = 0 }
    :: d_step { buffer[whose]??PRODUCER_CLOSED, what -> memory[PRODUCER_CLOSED] = what; what = 0 }
    :: d_step { buffer[whose]??CONSUMER_CLOSED, what -> memory[CONSUMER_CLOSED] = what; what = 0 }
    :: d_step { buffer[whose]??6, what -> memory[6] = what; what = 0 }
#if CAPACITY > 1
    :: d_step { buffer[whose]??7, what -> memory[7] = what; what = 0 }
#endif
#if CAPACITY > 2
    :: d_step { buffer[whose]??8, what -> memory[8] = what; what = 0 }
#endif
#else
    :: d_step { buffer[whose]?where, what -> memory[where] = what; where = 0; what = 0 }
#endif
    od
}

/* -- what the threads of one side share; and whether the kernel has let go of its lock */

bool locked[2];  /* the lock of the end */
bool shut[2];    /* changed under that lock: nothing more goes in, or comes out */
bool over[2];    /* the port has its end */
bool stopped[2]; /* whoever waits here shall not */
bool dead[2];
byte dying = NOBODY;

byte semaphore[2]; /* by who sleeps on it: space, items */
byte slices = SLICES;

/* -- what must hold is said of these, which no step depends on */

byte published, taken;
byte refused; /* the message whose write came out False */
bool finished[2];
bool unreal;  /* see look_at_head: no machine runs like this */
#ifdef BATCHES
byte reached; /* the head of the consumer, in whose memory alone it is while the room is held */
#endif

inline acquire(side) { atomic { !locked[side] -> locked[side] = true } }
inline release(side) { d_step { len(buffer[me]) == 0 -> locked[side] = false } }

/* A post is a locked instruction, or a store-release: what was stored before it is out. */
#ifdef BELL
inline post(side) { d_step { len(buffer[me]) == 0 -> semaphore[side] = 1 } }
inline loop_runs(side) { semaphore[side] = (semaphore[side] -> 0 : 0) }
#else
inline post(side) { d_step { len(buffer[me]) == 0 -> semaphore[side]++ } }
#endif

/* In runs without a death nothing ends a sleep but a post, and SLICES slices. */
inline wait(side, other)
{
    if
    :: d_step { semaphore[side] > 0 -> semaphore[side]--; refresh() }
    :: d_step { slices > 0 -> slices--; refresh() }
#ifndef WITHOUT_slice
    :: d_step { dead[other] -> refresh() }
#endif
    fi
}

inline close_producer()
{
    acquire(PRODUCER);
shut_producer:
    shut[PRODUCER] = true;
    release(PRODUCER);
say_producer_closed:
    store(PRODUCER_CLOSED, 1);
#ifndef WITHOUT_post_end
post_end:
    post(CONSUMER);
#endif
#ifndef WITHOUT_stop_writer
stop_writer:
    stopped[PRODUCER] = true;
    post(PRODUCER)
#endif
}

inline close_consumer()
{
#ifndef WITHOUT_shut_consumer
    acquire(CONSUMER);
shut_consumer:
    shut[CONSUMER] = true;
    release(CONSUMER);
#else
    skip;
#endif
#ifdef BATCHES
    store(HEAD, reached);
#ifndef WITHOUT_fence_before_say_closed
fence_before_say_closed:
#ifdef WEAK
    fence();
#endif
#endif
#endif
say_consumer_closed:
    store(CONSUMER_CLOSED, 1);
#ifndef WITHOUT_post_refusal
post_refusal:
    post(PRODUCER);
#endif
#ifndef WITHOUT_stop_reader
stop_reader:
    stopped[CONSUMER] = true;
    post(CONSUMER)
#endif
}

/* -- Producer.try_write, until all is written; Sleeper.wait when the ring is full */

#define ROOM(head) (tail + size - head <= CAPACITY)

inline fill()
{
    store(CELL + tail % CAPACITY, n);
    if
    :: size == 2 -> store(CELL + (tail + 1) % CAPACITY, n)
    :: else
    fi
}

proctype producer()
{
    byte me = PRODUCER;
    byte n, size, need, tail, head, now;
    bool sleeps, closed;
    {
        n = 1;
Write:
        if
#ifdef IDLE /* as who waits for an answer: no later step repairs what a wake-up should have done */
        :: n > MESSAGES -> (taken == MESSAGES); goto Finish
#else
        :: n > MESSAGES || over[PRODUCER] -> goto Finish
#endif
        :: dead[CONSUMER] -> goto Finish /* PeerLost */
        :: n <= MESSAGES && !over[PRODUCER]
#ifdef PRODUCER_MAY_CLOSE
        :: n > 1 -> goto Finish
#endif
#if defined(CLOSES) && CLOSES == CONSUMER
        :: n <= MESSAGES -> finished[CONSUMER] /* nothing but that close wakes the reader */
#endif
        fi;
        size = SIZE(n);
        need = (size > QUARTER -> size : QUARTER);
        acquire(PRODUCER);
        if
        :: !ROOM(head) ->
#if defined(WEAK) && defined(WITHOUT_fence_after_room)
            /* A load that comes after later stores. Where it turns out that there was no room, the branch
               would not have been taken, and nothing like this has happened. */
            if
            :: fill();
                look(HEAD, head);
                if
                :: ROOM(head) -> goto Filled
                :: else -> do :: unreal = true; skip od
                fi
            :: skip
            fi;
#endif
look_at_head:
            look(HEAD, head);
            if
            :: !ROOM(head) ->
look_if_refused:
                look(CONSUMER_CLOSED, closed);
                release(PRODUCER);
                if
                :: closed -> refused = n; goto Finish
                :: else -> goto spin
                fi
            :: else
            fi;
#ifndef WITHOUT_fence_after_room
fence_after_room:
#ifdef WEAK
            fence()
#else
            skip
#endif
#endif
        :: else
        fi;
look_if_shut:
#ifndef WITHOUT_look_if_shut_writer
        if
        :: shut[PRODUCER] -> release(PRODUCER); goto Finish
        :: else
        fi;
#endif
fill_frame:
        fill();
Filled:
#ifndef WITHOUT_fence_before_publish
fence_before_publish:
#ifdef WEAK
        fence();
#endif
#endif
publish_tail:
        d_step { buffer[me]!TAIL, tail + size STORED(TAIL, tail + size); published = n };
        tail = tail + size;
#ifndef WITHOUT_fence_after_publish
fence_after_publish:
        fence();
        locked[PRODUCER] = false;
#else
        locked[PRODUCER] = false;
#endif
look_at_reader:
        atomic { look(READER_SLEEPS, sleeps); look(CONSUMER_CLOSED, closed) };
        if
        :: sleeps || closed ->
            look(READER_SLEEPS, sleeps);
            if
            :: sleeps ->
#ifndef WITHOUT_clear_before_post_reader
clear_reader:
                store(READER_SLEEPS, 0);
#ifndef WITHOUT_post_reader
post_reader:
                post(CONSUMER)
#endif
#else
                post(CONSUMER);
                store(READER_SLEEPS, 0)
#endif
            :: else
            fi;
look_if_closed:
            look(CONSUMER_CLOSED, closed);
            if
            :: closed ->
#ifndef WITHOUT_fence_before_look_if_taken
fence_before_look_if_taken:
#ifdef WEAK
                fence();
#endif
#endif
#ifndef WITHOUT_look_if_taken
look_if_taken:
                look(HEAD, now);
#endif
                if
                :: now < tail -> refused = n; assert(taken < n || unreal); goto Finish
                :: else
                fi;
                now = 0
            :: else
            fi
        :: else
        fi;
        n++;
        goto Write;

spin:
        look(HEAD, now);
        look(CONSUMER_CLOSED, closed);
        if
        :: ROOM(now) || closed || stopped[PRODUCER] -> goto Awake
        :: else
        fi;
#ifdef BELL
        loop_runs(PRODUCER);
#endif
announce:
        store(WRITER_SLEEPS, need);
#ifndef WITHOUT_fence_after_announce_writer
fence_after_announce:
        fence();
#endif
#ifndef WITHOUT_look_again_writer
look_again:
        look(HEAD, now);
        look(CONSUMER_CLOSED, closed);
#endif
        if
        :: ROOM(now) || closed || stopped[PRODUCER]
        :: else ->
sleep:
            wait(PRODUCER, CONSUMER)
        fi;
withdraw:
        store(WRITER_SLEEPS, 0);
look_if_alive:
        if
        :: dead[CONSUMER]
        :: else -> goto spin
        fi;
Awake:
        now = 0;
        goto Write;

Finish:
        n = 0; size = 0; need = 0; tail = 0; head = 0; now = 0; sleeps = false; closed = false;
        close_producer();
        finished[PRODUCER] = true
    } unless { dying == PRODUCER };
    /* The stores of a process that was killed still come out, before the kernel drops its lock. */
    if
    :: dying == PRODUCER -> d_step { len(buffer[PRODUCER]) == 0 -> dead[PRODUCER] = true }
    :: else
    fi
}

/* -- Consumer.try_read, Connection.reading and last_payload, until the end; Sleeper.wait when it is empty */

inline copy()
{
    look(CELL + head % CAPACITY, now);
    assert(now == taken + 1 || unreal); /* none lost, doubled, out of order or overwritten */
    if
    :: size == 2 ->
        look(CELL + (head + 1) % CAPACITY, now);
        assert(now == taken + 1 || unreal)
    :: else
    fi
}

#ifdef WITHOUT_look_if_shut_reader
#define SHUT_CONSUMER false
#else
#define SHUT_CONSUMER shut[CONSUMER]
#endif

proctype consumer()
{
    byte me = CONSUMER;
    byte size, head, tail, now, need;
    bool closed, last;
#ifdef BATCHES
    bool holds;
#endif
    {
        last = false;
Read:
        if
        :: over[CONSUMER] -> goto Finish
        :: !over[CONSUMER]
#ifdef CONSUMER_MAY_CLOSE
        :: goto Finish
#endif
#if defined(CLOSES) && CLOSES == PRODUCER
        :: true -> finished[PRODUCER]
#endif
        fi;
        acquire(CONSUMER);
        if
        :: head == tail ->
look_at_tail:
            look(TAIL, tail);
            if
            :: head == tail -> release(CONSUMER); goto Nothing
            :: else
            fi;
#ifndef WITHOUT_fence_before_copy
fence_before_copy:
#ifdef WEAK
            fence()
#else
            skip
#endif
#endif
        :: else
        fi;
        size = SIZE(taken + 1);
#if defined(WEAK) && defined(WITHOUT_fence_before_consume)
        if
        :: store(HEAD, head + size); copy(); goto Consumed /* a load that comes late */
        :: skip
        fi;
#endif
copy_frame:
        copy();
#ifndef WITHOUT_fence_before_consume
fence_before_consume:
#ifdef WEAK
        fence();
#endif
#endif
look_if_shut:
        if
        :: SHUT_CONSUMER -> release(CONSUMER); goto Finish
        :: else
        fi;
consume:
#ifdef BATCHES /* as take_many: the room of several frames is given back at once */
        if
        :: store(HEAD, head + size); holds = false
        :: holds = true
        fi;
        reached = head + size;
#else
        store(HEAD, head + size);
#endif
Consumed:
        taken++;
        assert(taken != refused || unreal);
        head = head + size;
#ifndef WITHOUT_fence_after_consume
fence_after_consume:
        fence();
#endif
        locked[CONSUMER] = false;
look_at_writer:
        look(WRITER_SLEEPS, need);
        if
        :: need > 0 && need <= CAPACITY - (tail - head) ->
#ifndef WITHOUT_clear_before_post_writer
clear_writer:
            store(WRITER_SLEEPS, 0);
#ifndef WITHOUT_post_writer
post_writer:
            post(PRODUCER)
#endif
#else
            post(PRODUCER);
            store(WRITER_SLEEPS, 0)
#endif
        :: else
        fi;
        need = 0; now = 0; size = 0; last = false;
        goto Read;

Nothing:
#ifdef BATCHES
        if
        :: holds -> store(HEAD, head); holds = false; fence(); goto look_at_writer
        :: else
        fi;
#endif
        if
        :: last && !over[CONSUMER] -> /* the end, or PeerLost */
            assert(taken == published || unreal);
            goto Finish
        :: last && over[CONSUMER] -> goto Finish
        :: !last
        fi;
look_for_end:
        look(PRODUCER_CLOSED, closed);
        if
        :: closed ->
#ifndef WITHOUT_fence_after_end
fence_after_end:
#ifdef WEAK
            fence();
#endif
#endif
            last = true
        :: !closed && dead[PRODUCER] -> fence(); last = true
        :: !closed && !dead[PRODUCER]
        fi;
        if
#ifndef WITHOUT_look_last
        :: last ->
look_last:
            goto Read
#else
        :: last -> goto Nothing
#endif
        :: else
        fi;
spin:
        look(TAIL, now);
        look(PRODUCER_CLOSED, closed);
        if
        :: now != head || closed || stopped[CONSUMER] -> goto Awake
        :: else
        fi;
#ifdef BELL
        loop_runs(CONSUMER);
#endif
announce:
        store(READER_SLEEPS, 1);
#ifndef WITHOUT_fence_after_announce_reader
fence_after_announce:
        fence();
#endif
#ifndef WITHOUT_look_again_reader
look_again:
        look(TAIL, now);
        look(PRODUCER_CLOSED, closed);
#endif
        if
        :: now != head || closed || stopped[CONSUMER]
        :: else ->
sleep:
            wait(CONSUMER, PRODUCER)
        fi;
withdraw:
        store(READER_SLEEPS, 0);
look_if_alive:
        if
        :: dead[PRODUCER]
        :: else -> goto spin
        fi;
Awake:
        now = 0;
        closed = false;
        goto Read;

Finish:
        size = 0; head = 0; tail = 0; now = 0; closed = false; last = false;
        close_consumer();
        finished[CONSUMER] = true
    } unless { dying == CONSUMER };
    if
    :: dying == CONSUMER -> d_step { len(buffer[CONSUMER]) == 0 -> dead[CONSUMER] = true }
    :: else
    fi
}

/* -- close_sync from another thread, at any moment */

#ifdef CLOSES
proctype closer()
{
    byte me = CLOSER;
    over[CLOSES] = true;
#if CLOSES == PRODUCER
    close_producer()
#else
    close_consumer()
#endif
}
#endif

init
{
    atomic {
        run drain(PRODUCER);
        run drain(CONSUMER);
        run producer();
        run consumer();
#ifdef CLOSES
        run drain(CLOSER);
        run closer()
#endif
    };
#ifdef DIES
    dying = DIES /* at any moment */
#endif
}
