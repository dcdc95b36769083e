/* The blocks that one port lends to its peer, for Spin: README.md says what is modelled and what is not.

   The ring that carries the frames is taken to work: ring.pml checks it. So a frame is read and written as a
   whole here. What it refers to, the block, is memory like any other, and so is TAIL.

   A label is the name of a step. The code names the same steps ("step: give_back"). A label that ring.pml has
   too is a step of the ring or of its waiting. -DWITHOUT_x takes a step out: check.py does so with each
   safeguard, and wants an error each time. */

#ifndef PLACES
#define PLACES 2 /* blocks that may be out at a time: the limit */
#endif
#ifndef MESSAGES
#define MESSAGES 3
#endif
#ifndef SLICES
#define SLICES 0 /* sleeps that may end by themselves, in all: too few to hide a wake-up that is lost */
#endif
#ifndef REFUSALS
#define REFUSALS 0 /* messages with a block that are refused, time out or raise before they are published */
#endif
#ifndef UNMAPPED
#define UNMAPPED 0 /* blocks that the reader cannot map on their first trip */
#endif
#ifndef RETIREMENTS
#define RETIREMENTS 0 /* idle blocks whose place gets a new one */
#endif

/* -- memory: as in ring.pml. Nobody loads what may still be in its own buffer. */

#define WRITER 0
#define READER 1
#define HOLDER 2 /* another thread of the reader's process: it gives back what the reader has taken; */
#define CLOSER 2 /* or it closes the reader's port */
#define NOBODY 3

#define TAIL 0
#define WRITER_SLEEPS 1
#define CONSUMER_CLOSED 2
#define BLOCKS_RECEIVED 3
#define GIVEN_BACK 4
#define BLOCK (GIVEN_BACK + PLACES)
#define WORDS (BLOCK + PLACES)

byte memory[WORDS];
chan buffer[3] = [4] of { byte, byte }; /* where, what */

#ifdef WEAK
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

#ifdef WEAK /* what only a machine with a weak memory, or a compiler, needs */
inline weak_fence() { fence() }
#else
inline weak_fence() { skip }
#endif

proctype drain(byte whose)
{
    byte where, what;
end_drain:
    do
#ifdef WEAK
    :: d_step { buffer[whose]??0, what -> memory[0] = what; what = 0 }
    :: d_step { buffer[whose]??1, what -> memory[1] = what; what = 0 }
    :: d_step { buffer[whose]??2, what -> memory[2] = what; what = 0 }
    :: d_step { buffer[whose]??3, what -> memory[3] = what; what = 0 }
    :: d_step { buffer[whose]??4, what -> memory[4] = what; what = 0 }
    :: d_step { buffer[whose]??5, what -> memory[5] = what; what = 0 }
#if PLACES > 1
    :: d_step { buffer[whose]??6, what -> memory[6] = what; what = 0 }
    :: d_step { buffer[whose]??7, what -> memory[7] = what; what = 0 }
#endif
#else
    :: d_step { buffer[whose]?where, what -> memory[where] = what; where = 0; what = 0 }
#endif
    od
}

/* -- the kernel's: files, their locks, semaphores, deaths. A system call is one step. */

bool name[PLACES];      /* the block's file has a name */
bool under_way[PLACES]; /* its record says that it goes to the reader; else it is the writer's own */
bool unlocked[PLACES];    /* the writer has unlocked it */
byte semaphore;         /* the writer sleeps on it */
byte slices = SLICES;
bool dead[2];
byte dying = NOBODY;

/* -- frames in the ring, by their number */

typedef Frame {
    byte place; /* PLACES: the message is in the ring itself */
    byte trip;
    bool named;
    byte value;
}
Frame frame[MESSAGES];
bool shut; /* under the reader's lock: nothing more is taken */
byte published, taken;

/* -- what the threads of the reader share: the trip of each block that it has, and which file it has mapped */

byte has[PLACES];
byte value[PLACES];
byte mapped[PLACES];
bool taking; /* a frame is out of the ring, and its message is not decoded yet */
bool over; /* the reader's port has ended */
bool giving; /* a block is given back, and the writer is not woken yet */

/* -- what must hold is said of these, which no step depends on */

bool lent[PLACES]; /* from the storing of TAIL to the storing of GIVEN_BACK, or to a refusal */
byte file[PLACES]; /* counts the files of a place */
bool finished[2];
bool looked[2];    /* an end has begun its last look for names */
bool swept;        /* a side died after the other's last look: a sweep removes what is left */
bool unreal;       /* no machine runs like this: see fence_after_room in ring.pml */

#define NOT_MAPPED 100 /* added to a trip that is given back because the reader could not map the block */
#define READERS 99 /* what the reader writes into a block that it has */

/* A post is a locked instruction: what was stored before it is out. */
inline post() { d_step { len(buffer[me]) == 0 -> semaphore++ } }

inline die(side, other)
{
    if
    :: dying == side -> d_step { len(buffer[side]) == 0 -> dead[side] = true; swept = looked[other] }
    :: else
    fi
}

/* -- the writer: Producer and its pool */

#define IS_BACK(back) (back == trip[p])
#ifdef WITHOUT_trip_check
#undef IS_BACK
#define IS_BACK(back) (back > 0)
#endif

/* The memory of block p is freed at once, also where the reader has it mapped. */
inline retire()
{
    d_step {
        memory[BLOCK + p] = 0 STORED(BLOCK + p, 0);
        name[p] = false;
        made[p] = false;
        sent_name[p] = false;
        under_way[p] = false;
#ifdef WITHOUT_trip_goes_on
        trip[p] = 0;
#endif
        own[p] = true
    }
}

/* Into p: a place whose block the writer may use, or PLACES. */
inline find()
{
    p = 0;
    do
    :: p < PLACES && own[p] -> break
    :: p < PLACES && !own[p] ->
        look(GIVEN_BACK + p, back);
        if
        :: IS_BACK(back) -> break
#ifndef WITHOUT_look_if_unmapped
        :: !(IS_BACK(back)) && back == trip[p] + NOT_MAPPED -> retire(); break
#endif
        :: else -> p++
        fi
    :: p == PLACES -> break
    od;
    back = 0
}

inline own_again(named_now)
{
    d_step {
        own[p] = true;
        lent[p] = false;
        if
        :: named_now ->
            under_way[p] = false;
#ifndef WITHOUT_name_again
            sent_name[p] = false
#endif
        :: else
        fi
    }
}

proctype writer()
{
    byte me = WRITER;
    byte n, p, back, tail, refusals, retirements;
    byte trip[PLACES];
    bool own[PLACES];       /* never lent, or its message was never published, or found given back */
    bool made[PLACES];      /* the place has a file */
    bool sent_name[PLACES]; /* a published frame has carried the name of that file */
    bool closed, moves, named;
    {
        d_step {
            n = 1;
            own[0] = true;
#if PLACES > 1
            own[1] = true
#endif
        };
Write:
        if
        :: n > MESSAGES -> goto Settle
        :: dead[READER] -> goto Finish /* PeerLost */
        :: n <= MESSAGES && !dead[READER]
#ifdef WRITER_MAY_CLOSE
        :: n > 1 -> goto Finish
#endif
        fi;
        look(CONSUMER_CLOSED, closed);
        if
        :: closed -> goto Finish
        :: else
        fi;
        if
        :: moves = true
#ifdef COPIES
        :: moves = false
#endif
        fi;
Find:
#if defined(WEAK) && defined(WITHOUT_fence_before_fill)
        /* The copy comes before the load that allows it. See fence_after_room in ring.pml. */
        p = 0;
        if
        :: !own[0] ->
            store(BLOCK, n);
            look(GIVEN_BACK, back);
            if
            :: IS_BACK(back) -> back = 0; own[0] = true; goto Filled
            :: else -> do :: unreal = true; skip od
            fi
        :: skip
        fi;
#endif
look_if_given_back:
        find();
        if
        :: p == PLACES && moves -> goto Wait
        :: p == PLACES && !moves -> goto Publish /* in parts, through the ring */
        :: p < PLACES
        fi;
#ifndef WITHOUT_fence_before_fill
fence_before_fill:
        weak_fence();
#endif
        own[p] = true;
#if RETIREMENTS > 0
        if
        :: retirements < RETIREMENTS && made[p] ->
            retirements++;
#ifdef WITHOUT_retire_free_only
            p = (p + 1) % PLACES;
#endif
retire_block:
            retire()
        :: skip
        fi;
#endif
        if
        :: !made[p] ->
make_block:
            d_step { name[p] = true; unlocked[p] = false; made[p] = true; file[p]++ }
        :: else
        fi;
fill_block:
        assert(!lent[p] || unreal); /* the reader has it */
        store(BLOCK + p, n);
Filled:
        named = false;
        d_step { trip[p]++; named = !sent_name[p] };
#ifdef WITHOUT_name_again
        named = (trip[p] == 1); /* the first trip, whether anybody heard of it or not */
#endif
        if
        :: named ->
offer_block:
#ifndef WITHOUT_offer_block
            under_way[p] = true
#else
            skip
#endif
        :: else
        fi;
mark_lent:
#ifndef WITHOUT_mark_lent
        d_step { own[p] = false; sent_name[p] = true };
#endif
        if
        :: refusals < REFUSALS ->
            refusals++;
#ifndef WITHOUT_take_back
take_back:
            own_again(named);
#endif
            goto Next
        :: skip
        fi;
Publish:
        moves = false;
#ifndef WITHOUT_fence_before_publish
fence_before_publish:
        weak_fence();
#endif
publish_tail:
        d_step {
            nfull(buffer[me]) ->
            frame[tail].place = p;
            if
            :: p < PLACES ->
                frame[tail].trip = trip[p];
                frame[tail].named = named;
                frame[tail].value = n;
                lent[p] = true
            :: else
            fi;
            tail++;
            published = tail;
            buffer[me]!TAIL, tail STORED(TAIL, tail)
        };
#ifdef WITHOUT_mark_lent
        if
        :: p < PLACES -> d_step { own[p] = false; sent_name[p] = true }
        :: skip /* a signal handler raises here */
        fi;
#endif
        if
#ifdef READER_MAY_CLOSE
        :: shut && taken < tail -> /* refused: the writer has its buffer again, and may write into it */
            if
            :: p < PLACES ->
                own_again(named);
                fence();
                store(BLOCK + p, n + MESSAGES)
            :: else
            fi;
            goto Finish
#endif
        :: true
        fi;
Next:
        n++;
        d_step { p = 0; named = false; closed = false; moves = false };
        goto Write;

Wait:
announce:
        store(WRITER_SLEEPS, 1);
#ifndef WITHOUT_fence_after_announce
fence_after_announce:
        fence();
#endif
#ifndef WITHOUT_look_again
look_again:
        find();
        look(CONSUMER_CLOSED, closed);
#endif
        if
        :: p < PLACES || closed
        :: else ->
sleep:
            if
            :: d_step { semaphore > 0 -> semaphore--; refresh() }
            :: d_step { slices > 0 -> slices--; refresh() }
#ifndef WITHOUT_slice
            :: d_step { dead[READER] -> refresh() }
#endif
            fi
        fi;
withdraw:
        store(WRITER_SLEEPS, 0);
look_if_alive:
        if
        :: dead[READER] || closed -> goto Finish
        :: !dead[READER] && !closed -> goto Find
#if REFUSALS > 0
        :: refusals < REFUSALS -> refusals++; goto Next /* the timeout */
#endif
        fi;

Settle:
#if !defined(DIES) && !defined(READER_MAY_CLOSE) && !defined(CLOSES)
        /* Once the reader has let go of all, each block is the writer's again. */
        (taken == tail && !taking && !has[0] && !has[PLACES - 1] && !giving);
        fence();
        p = 0;
        do
        :: p < PLACES ->
            assert(own[p] || memory[GIVEN_BACK + p] % NOT_MAPPED == trip[p] || unreal); /* a block is lost */
            p++
        :: else -> break
        od;
#else
        skip;
#endif

Finish:
        /* The writer unlocks what is under way, then looks whether the reader has received all; the reader says
           so, then looks at the locks. So one of the two removes the name. */
        p = 0;
        do
        :: p < PLACES ->
            if
            :: under_way[p] && !own[p] ->
let_go:
                unlocked[p] = true
            :: else ->
#ifndef WITHOUT_remove_own
remove_own:
                name[p] = false
#else
                skip
#endif
            fi;
            p++
        :: else -> break
        od;
#ifndef WITHOUT_fence_after_let_go
fence_after_let_go:
        fence();
#endif
#ifdef WITHOUT_say_received
        look(CONSUMER_CLOSED, closed);
#else
        look(BLOCKS_RECEIVED, closed);
#endif
        if
        :: closed || dead[READER] ->
#ifndef WITHOUT_remove_unreceived_writer
remove_unreceived:
            d_step {
                name[0] = false;
#if PLACES > 1
                name[1] = false
#endif
            }
#else
            skip
#endif
        :: d_step { !closed && !dead[READER] -> looked[WRITER] = true }
        fi;
        d_step { n = 0; p = 0; tail = 0; named = false; closed = false; moves = false; finished[WRITER] = true }
    } unless { dying == WRITER };
    die(WRITER, READER)
}

/* -- the reader: Consumer, and the handles of its blocks */

/* At the end of a ring's step and of a give-back: wake the writer if it sleeps. */
inline attend()
{
    sleeps = false;
look_at_writer:
    look(WRITER_SLEEPS, sleeps);
    if
    :: sleeps ->
#ifndef WITHOUT_clear_before_post
clear_writer:
        store(WRITER_SLEEPS, 0);
#ifndef WITHOUT_post_writer
post_writer:
        post()
#endif
#else
        post();
        store(WRITER_SLEEPS, 0)
#endif
    :: else
    fi;
    sleeps = false
}

inline take_one()
{
    d_step { p = frame[head].place; named = frame[head].named };
#ifndef WITHOUT_fence_before_copy
fence_before_copy:
    weak_fence();
#endif
consume:
    if
    :: d_step { !shut -> taken++; taking = true }
    :: d_step { shut -> p = 0; named = false }; goto Read
    fi;
    if
    :: p < PLACES ->
#if UNMAPPED > 0
        if
        :: named && unmapped < UNMAPPED ->
            unmapped++;
refuse_block:
            d_step {
                buffer[me]!GIVEN_BACK + p, frame[head].trip + NOT_MAPPED STORED(GIVEN_BACK + p, frame[head].trip + NOT_MAPPED);
                lent[p] = false;
                giving = true
            };
            fence(); /* and look at the writer, as after a give-back */
            look(WRITER_SLEEPS, sleeps);
            if
            :: sleeps -> store(WRITER_SLEEPS, 0); post()
            :: else
            fi;
            d_step { len(buffer[me]) == 0 -> giving = false; sleeps = false };
            goto Refused
        :: skip
        fi;
#endif
#ifdef WITHOUT_list_blocks
        if
        :: goto Listed /* the message cannot be decoded, and nothing knows which blocks it has */
        :: skip
        fi;
#endif
list_blocks:
        d_step {
            assert(!has[p] || unreal);
            has[p] = frame[head].trip;
            value[p] = frame[head].value
        };
        if
        :: named ->
open_block:
            d_step { assert(name[p] || unreal); mapped[p] = file[p] }; /* a name that is gone */
#ifndef WITHOUT_remove_name
remove_name:
            name[p] = false
#endif
        :: else
        fi;
        assert(!name[p] || unreal); /* both have it */
        assert(mapped[p] == file[p] || unreal); /* a block that the reader never heard of */
        look(BLOCK + p, now);
        assert(now == value[p] || unreal)
#ifdef WITHOUT_list_blocks
        ;
Listed:
        skip
#endif
#if UNMAPPED > 0
        ;
Refused:
        skip
#endif
    :: else
    fi;
    d_step { head++; p = 0; now = 0; named = false; taking = false }
}

inline give_one()
{
    look(BLOCK + p, now);
    assert(now == value[p] || unreal); /* the writer has overwritten it */
    store(BLOCK + p, READERS); /* the block is the reader's to write, too */
#ifndef WITHOUT_fence_before_give_back
fence_before_give_back:
    weak_fence();
#endif
give_back:
    d_step {
        buffer[me]!GIVEN_BACK + p, has[p] STORED(GIVEN_BACK + p, has[p]);
        has[p] = 0;
        value[p] = 0;
        giving = true;
        lent[p] = false
    };
#ifndef WITHOUT_fence_after_give_back
fence_after_give_back:
    fence();
#endif
    attend();
    d_step { len(buffer[me]) == 0 -> giving = false; p = 0; now = 0 }
}

/* The end of the reader's port, in any thread of its process. */
inline close_reader()
{
    p = 0; /* what the reader holds outlives the close */
shut_consumer:
    shut = true;
say_consumer_closed:
    store(CONSUMER_CLOSED, 1);
#ifndef WITHOUT_post_refusal
post_refusal:
    post();
#else
    fence();
#endif
#ifndef WITHOUT_last_read
last_read:
    d_step { !taking -> refresh() };
#endif
say_received:
    d_step { buffer[me]!BLOCKS_RECEIVED, 1 STORED(BLOCKS_RECEIVED, 1); looked[READER] = true };
#ifndef WITHOUT_fence_after_received
fence_after_received:
    fence();
#endif
    do
    :: p < PLACES ->
#ifndef WITHOUT_remove_unreceived_reader
remove_unreceived:
        if
        :: name[p] && ((under_way[p] && unlocked[p]) || dead[WRITER]) -> name[p] = false
        :: else
        fi;
#endif
        p++
    :: else -> break
    od;
    p = 0;
    d_step { len(buffer[me]) == 0 -> over = true }
}

proctype reader()
{
    byte me = READER;
    byte head, p, now, unmapped;
    bool named, sleeps;
    {
        head = 0;
Read:
        if
        :: memory[TAIL] > head && !shut -> /* ring.pml shows that it is woken */
            take_one();
#ifdef HOLDS
            attend(); /* as after making room, while the other thread may do the same */
#endif
            goto Read
#ifndef HOLDS
        :: has[0] > 0 -> p = 0; goto Give
#if PLACES > 1
        :: has[1] > 0 -> p = 1; goto Give
#endif
#endif
#ifdef READER_MAY_CLOSE
        :: !shut -> goto Close
#endif
        :: (finished[WRITER] || dead[WRITER]) && (memory[TAIL] == head || shut) && !has[0] && !has[PLACES - 1] ->
            if
#ifndef CLOSES
            :: !shut -> goto Close
#endif
            :: over -> goto Finish
            fi
        fi;
#ifndef HOLDS
Give:
        give_one();
        goto Read;
#endif

Close:
        close_reader();
        goto Read;

Finish:
        head = 0;
        finished[READER] = true
    } unless { dying == READER };
    die(READER, WRITER)
}

#ifdef CLOSES
/* Another thread closes the port, or finds its end. */
proctype closer()
{
    byte me = CLOSER;
    byte p;
    {
        close_reader()
    } unless { dying == READER }
}
#endif

#ifdef HOLDS
/* The last view may go in any thread. It has the block from the reader by a lock: what is seen there is seen here. */
proctype holder()
{
    byte me = HOLDER;
    byte p, now;
    bool sleeps;
Hold:
    if
    :: d_step { has[0] > 0 && !taking -> refresh(); p = 0 }
#if PLACES > 1
    :: d_step { has[1] > 0 && !taking -> refresh(); p = 1 }
#endif
    :: finished[READER] -> goto Held
    fi;
    give_one();
    goto Hold;
Held:
    skip
}
#endif

init
{
    atomic {
        run drain(WRITER);
        run drain(READER);
        run writer();
        run reader();
#ifdef HOLDS
        run drain(HOLDER);
        run holder()
#endif
#ifdef CLOSES
        run drain(CLOSER);
        run closer()
#endif
    };
#ifdef DIES
    dying = DIES; /* at any moment */
#endif
    (finished[WRITER] || dead[WRITER]) && (finished[READER] || dead[READER]);
    assert(!(name[0] || name[PLACES - 1]) || swept || unreal) /* a name is left */
}
