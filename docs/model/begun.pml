/* The two words that say which tasks a worker has begun (futures/begun.py), for Spin: see README.md.

   The ring that carries calls and answers is taken to work: ring.pml checks it. The pool sends calls, takes
   some back while the worker goes on, and has them run elsewhere. The worker may be killed at every step.

   A label is the name of a step, as in the code. -DWITHOUT_x takes a step out. */

#ifndef MESSAGES
#define MESSAGES 3 /* calls; the last one is sent after those before it have been answered */
#endif

#define WORKER 0
#define POOL 1

#define BEGUN 0
#define LIMIT 1
#define NO_LIMIT 100

byte memory[2];
chan buffer[2] = [4] of { byte, byte }; /* where, what */

#ifdef WEAK
byte seen[4];
inline look(where, into)
{
    if
    :: into = seen[me * 2 + where]
    :: d_step { seen[me * 2 + where] = memory[where]; into = memory[where] }
    fi
}
inline refresh() { seen[me * 2] = memory[0]; seen[me * 2 + 1] = memory[1] }
#define STORED(where, what) ; seen[me * 2 + where] = what
#else
inline look(where, into) { into = memory[where] }
inline refresh() { skip }
#define STORED(where, what)
#endif

/* What a process loads itself of what it has stored is not asked here: each word has one writer. */
inline store(where, what) { d_step { buffer[me]!where, what STORED(where, what) } }
inline fence() { d_step { len(buffer[me]) == 0 -> refresh() } }

proctype drain(byte whose)
{
    byte where, what;
end_drain:
    do
#ifdef WEAK
    :: d_step { buffer[whose]??0, what -> memory[0] = what; what = 0 }
    :: d_step { buffer[whose]??1, what -> memory[1] = what; what = 0 }
#else
    :: d_step { buffer[whose]?where, what -> memory[where] = what; where = 0; what = 0 }
#endif
    od
}

/* -- calls and answers in their rings, by their number */

#define NONE 0
#define RESULT 1
#define LEFT_OUT 2
byte sent;
byte outcome[MESSAGES + 1];
bool dead;
bool may_die;

/* -- what must hold is said of these, which no step depends on */

byte runs[MESSAGES + 1];      /* how often a call was run: by the worker, or elsewhere */
bool lost[MESSAGES + 1];      /* its future was told that it is lost */

inline perform(which) { d_step { runs[which]++; assert(runs[which] == 1) } }

proctype worker()
{
    byte me = WORKER;
    byte n = 1, limit;
    {
        do
        :: n > MESSAGES -> break
        :: n <= MESSAGES ->
            d_step { sent >= n -> refresh() }; /* the call has come: what was stored before it is seen */
say_begun:
            store(BEGUN, n);
#ifndef WITHOUT_fence_after_begun
fence_after_begun:
            fence();
#endif
look_at_limit:
            look(LIMIT, limit);
            if
#ifndef WITHOUT_look_at_limit
            :: n > limit -> d_step { len(buffer[me]) == 0 -> outcome[n] = LEFT_OUT }
#endif
            :: n <= limit ->
                perform(n);
                d_step { len(buffer[me]) == 0 -> outcome[n] = RESULT }
#ifdef WITHOUT_look_at_limit
            :: n > limit ->
                perform(n);
                d_step { len(buffer[me]) == 0 -> outcome[n] = RESULT }
#endif
            fi;
            limit = 0;
            n++
        od;
        n = 0
    } unless { may_die };
    d_step { len(buffer[WORKER]) == 0 -> dead = true }
}

/* The pool may take calls back: those from `first` on that have not begun. */
inline take_back(first)
{
    look(BEGUN, begun);
    limit = (begun >= first -> begun : first - 1);
#ifndef WITHOUT_say_limit
say_limit:
    store(LIMIT, limit);
#endif
#ifndef WITHOUT_fence_after_limit
fence_after_limit:
    fence();
#endif
#ifndef WITHOUT_look_if_begun
look_if_begun:
    look(BEGUN, begun);
#endif
    limit = (begun > limit -> begun : limit);
    do
    :: limit < sent -> limit++; taken[limit] = true; perform(limit)
    :: else -> break
    od;
    limited = true; limit = 0; begun = 0
}

proctype pool()
{
    byte me = POOL;
    byte answered, begun, limit;
    bool limited;
    bool taken[MESSAGES + 1];
    store(LIMIT, NO_LIMIT);
    d_step { len(buffer[me]) == 0 -> sent = MESSAGES - 1 };
    do
    :: answered == MESSAGES -> break
    :: answered < sent && outcome[answered + 1] != NONE ->
        refresh();
        answered++;
        if
        :: outcome[answered] == LEFT_OUT && !taken[answered] -> perform(answered) /* it is said to be left out */
        :: else
        fi
    :: answered < sent && !limited ->
        if
        :: take_back(answered + 1)
        :: take_back(answered + 2)
        fi
    :: answered == sent && sent < MESSAGES ->
        if
        :: limited -> store(LIMIT, NO_LIMIT); limited = false
        :: else
        fi;
        d_step { len(buffer[me]) == 0 -> sent++ }
#ifdef WITHOUT_read_answers_first
    :: dead && answered < MESSAGES ->
#else
    :: dead && answered < MESSAGES && (answered == sent || outcome[answered + 1] == NONE) ->
#endif
        refresh();
#ifndef WITHOUT_look_if_lost
look_if_lost:
        look(BEGUN, begun);
        if
        :: begun > answered ->
            answered++;
            lost[answered] = !taken[answered];
            assert(outcome[answered] == NONE)
        :: else
        fi;
#endif
        do
        :: answered < MESSAGES ->
            answered++;
            if
            :: !taken[answered] -> perform(answered)
            :: else
            fi
        :: else -> break
        od
    od;
    answered = 1;
    do
    :: answered <= MESSAGES -> assert(runs[answered] == 1 || lost[answered]); answered++
    :: else -> break
    od
}

init
{
    run drain(WORKER);
    run drain(POOL);
    run pool();
    run worker();
#ifdef DIES
    may_die = true
#endif
}
