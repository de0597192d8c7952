package limits

import (
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// TestFor: what is within its limits is left alone, a query is Cancelled before
// its session is ended, and what lasts longer is never treated more gently.
func TestFor(t *testing.T) {
	const query, transaction = 10 * time.Second, time.Minute
	for _, c := range []struct {
		s    Session
		want Measure
	}{
		{Session{}, Leave},
		{Session{Query: query + Grace}, Leave}, // the server's own limit comes first
		{Session{Query: query + Grace + 1}, Cancel},
		{Session{Query: query + 2*Grace + 1}, End},
		{Session{Transaction: transaction}, Leave},
		{Session{Transaction: transaction + 1}, End},
		{Session{Query: query + Grace + 1, Transaction: transaction + 1}, End},
	} {
		if got := For(c.s, query, transaction); got != c.want {
			t.Errorf("%+v: %q, want %q", c.s, got, c.want)
		}
	}
	severity := map[Measure]int{Leave: 0, Cancel: 1, End: 2}
	rapid.Check(t, func(t *rapid.T) {
		seconds := rapid.Int64Range(0, int64(time.Hour))
		draw := func(name string) time.Duration { return time.Duration(seconds.Draw(t, name)) }
		s := Session{Query: draw("query"), Transaction: draw("transaction")}
		longer := Session{Query: s.Query + draw("more query"), Transaction: s.Transaction + draw("more transaction")}
		q, tx := draw("limit"), draw("transaction limit")
		if severity[For(longer, q, tx)] < severity[For(s, q, tx)] {
			t.Fatalf("%+v is treated more gently than %+v", longer, s)
		}
	})
}

// TestChange: repeated until nothing is to be done, and wherever a change is interrupted,
// users may write if and only if their database is within its limit.
func TestChange(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := Size{Bytes: rapid.Int64Range(0, 100).Draw(t, "bytes"), Limit: rapid.Int64Range(0, 100).Draw(t, "limit"), Some: rapid.Bool().Draw(t, "some")}
		s.All = s.Some && rapid.Bool().Draw(t, "all")
		for range 4 {
			cut := rapid.Bool().Draw(t, "interrupted")
			switch s.Change() {
			case Revoke:
				s.All, s.Some = false, cut
			case GiveBack:
				s.Some, s.All = true, !cut
			case Reclaim:
				if s.Bytes <= s.Limit || s.Some {
					t.Fatalf("room is looked for: %+v", s)
				}
			}
		}
		switch s.Change() { // at last not interrupted
		case Revoke:
			s.All, s.Some = false, false
		case GiveBack:
			s.Some, s.All = true, true
		}
		if within := s.Bytes <= s.Limit; s.Some != within || s.All != within {
			t.Fatalf("%+v", s)
		}
	})
}

// TestNewest: as many as the limit says stay, and they are the oldest.
func TestNewest(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		all := rapid.SliceOfNDistinct(rapid.Int64Range(0, 1000), 0, 20, rapid.ID[int64]).Draw(t, "sessions")
		limit := rapid.IntRange(0, 20).Draw(t, "limit")
		ended := Newest(all, limit)
		if left := len(all) - len(ended); left != min(len(all), limit) {
			t.Fatalf("%d of %d are left, the limit is %d", left, len(all), limit)
		}
		for _, n := range all {
			if !slices.Contains(ended, n) && len(ended) > 0 && n > slices.Min(ended) {
				t.Fatalf("%d stays, and %v are ended", n, ended)
			}
		}
	})
}
