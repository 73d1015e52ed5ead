package intake

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/calpe/calpe"
)

// from is a submission of an owner with n commitments.
func from(owner string, n int) *waiter {
	return &waiter{submission: calpe.Submission{Owner: owner, Commitments: make([]calpe.Commitment, n)}}
}

// pushAll puts waiters into the queue, which must have room for them.
func pushAll(t *testing.T, q *queue, waiters ...*waiter) {
	t.Helper()
	for i, w := range waiters {
		if full, closed := q.push(w); full || closed {
			t.Fatalf("waiter %d: full %v, closed %v", i, full, closed)
		}
	}
}

// groupsOf takes everything, in groups of up to most entries, and says whose
// submissions are in each.
func groupsOf(q *queue, most int) (groups []string) {
	for {
		taken, _ := q.take(most)
		if len(taken) == 0 {
			return groups
		}
		owners := ""
		for _, w := range taken {
			owners += w.submission.Owner
			if n := len(w.submission.Commitments); n > 1 {
				owners += fmt.Sprint(n)
			}
		}
		groups = append(groups, owners)
	}
}

func TestOwnersAreServedInTurn(t *testing.T) {
	many := func(n int, of func() *waiter) (list []*waiter) {
		for range n {
			list = append(list, of())
		}
		return list
	}
	single := func(owner string) *waiter { return from(owner, 1) }
	for name, c := range map[string]struct {
		waiting []*waiter
		most    int
		want    []string
	}{
		"one owner, in order": {[]*waiter{single("a"), single("a"), from("a", 9), single("a")}, 8, []string{"aa", "a9", "a"}},
		"a single behind many bulk groups": {
			append(many(4, func() *waiter { return from("b", 9) }), single("a")), 8, []string{"b9", "a", "b9", "b9", "b9"},
		},
		"singles share a group between bulk groups": {
			append(many(2, func() *waiter { return from("b", 9) }), single("a"), single("a"), single("c")), 8, []string{"b9", "aca", "b9"},
		},
		"a flood of singles": {
			append(many(6, func() *waiter { return single("b") }), single("a"), single("c")), 4, []string{"bacb", "bbbb"},
		},
		"two bulk owners": {
			append(many(3, func() *waiter { return from("b", 9) }), many(3, func() *waiter { return from("c", 7) })...), 8,
			[]string{"b9", "c7", "b9", "c7", "b9", "c7"},
		},
	} {
		q := newQueue(100)
		pushAll(t, q, c.waiting...)
		if diff := cmp.Diff(c.want, groupsOf(q, c.most)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
		if q.count != 0 || q.entries != 0 || len(q.lanes) != 0 || q.turns.first != nil {
			t.Errorf("%s: the queue isn't empty: %+v", name, q)
		}
	}
}

// TestSingleIsServedBesideBulk: while an owner always has bulk groups waiting,
// and brings a new one for each that is taken, every single submission of another
// is in one of the next two groups. It counts groups, not time.
func TestSingleIsServedBesideBulk(t *testing.T) {
	q := newQueue(64)
	for range 8 {
		pushAll(t, q, from("bulk", 8192))
	}
	for i := range 1000 {
		one := from("single", 1)
		pushAll(t, q, one)
		served := false
		for group := 0; group < 2 && !served; group++ {
			taken, _ := q.take(1024)
			for _, w := range taken {
				served = served || w == one
				if w.submission.Owner == "bulk" {
					pushAll(t, q, from("bulk", 8192))
				}
			}
		}
		if !served {
			t.Fatalf("submission %d wasn't in the next two groups", i)
		}
	}
}

// TestNobodyFillsTheQueue: however much the others bring, who has nothing waiting
// finds a place, until more owners wait than there are places.
func TestNobodyFillsTheQueue(t *testing.T) {
	const limit = 60
	fill := func(q *queue, owner string) (taken int) {
		for {
			if full, _ := q.push(from(owner, 1)); full {
				return taken
			}
			taken++
		}
	}
	q := newQueue(limit)
	if n := fill(q, "a"); n != limit/2 {
		t.Errorf("one owner alone has %d places", n)
	}
	if n := fill(q, "b"); n != limit/4 {
		t.Errorf("the second has %d places", n)
	}
	if n := fill(q, "c"); n == 0 {
		t.Error("the third has no place")
	}
	if full, _ := q.push(from("d", 1)); full {
		t.Error("the fourth has no place")
	}
	if n := fill(q, ""); n == 0 || q.count != limit {
		t.Errorf("the service has %d places, the queue holds %d", n, q.count)
	}
	if full, _ := q.push(from("e", 1)); !full {
		t.Error("the queue isn't bounded")
	}
}

func TestBulkInQueueIsBounded(t *testing.T) {
	q := newQueue(100)
	taken := 0
	for i := range 40 {
		if full, _ := q.push(from(fmt.Sprint("owner ", i), calpe.MaxGroup)); !full {
			taken++
		}
	}
	if taken*calpe.MaxGroup != maxWaitingEntries {
		t.Errorf("%d bulk groups wait", taken)
	}
	if full, _ := q.push(from("single", 1)); full {
		t.Error("a single submission finds no place")
	}
}
