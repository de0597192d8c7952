package domains

import (
	"crypto/x509"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// A CA that is away now and then costs nothing: on virtual time, with a look once a
// day and a CA that answers again before a sixth of a life is over, no certificate
// ends before it is replaced, none is replaced in the first two thirds of its life,
// and a CA that is away is not asked all the time.
func TestDueOnVirtualTime(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		life := time.Duration(rapid.IntRange(6, 398).Draw(t, "days")) * day
		every := time.Duration(rapid.IntRange(1, 24).Draw(t, "hours between looks")) * time.Hour
		away := time.Duration(rapid.Int64Range(0, int64(life/6)).Draw(t, "away"))
		from := now.Add(time.Duration(rapid.Int64Range(0, int64(2*life)).Draw(t, "from")))
		var leaf *x509.Certificate
		var last Attempt
		asked := 0
		for at := now; at.Before(now.Add(4 * life)); at = at.Add(every) {
			isAway := !at.Before(from) && at.Before(from.Add(away))
			if leaf != nil && at.After(leaf.NotAfter) {
				t.Fatalf("it ended at %v and was not renewed by %v", leaf.NotAfter, at)
			}
			due, next := Due(leaf, last, at)
			if due != !at.Before(next) {
				t.Fatalf("due %v at %v, next at %v", due, at, next)
			}
			if !due {
				continue
			}
			if leaf != nil && at.Before(leaf.NotBefore.Add(life/3*2)) {
				t.Fatalf("renewed at %v, in the first two thirds of what began at %v", at, leaf.NotBefore)
			}
			if isAway {
				if last.Failures > 0 && at.Sub(last.At) < firstWait {
					t.Fatalf("asked again after %v", at.Sub(last.At))
				}
				asked++
				last = Attempt{At: at, Failures: last.Failures + 1}
				continue
			}
			leaf, last = &x509.Certificate{NotBefore: at, NotAfter: at.Add(life)}, Attempt{}
		}
		if most := int(away/firstWait) + 2; asked > most {
			t.Fatalf("asked %d times in %v", asked, away)
		}
	})
}

// The waits after failures grow, to a bound, and shorten towards the end.
func TestDueWaits(t *testing.T) {
	leaf := &x509.Certificate{NotBefore: now.Add(-80 * day), NotAfter: now.Add(10 * day)}
	short := &x509.Certificate{NotBefore: now.Add(-9 * day), NotAfter: now.Add(8 * time.Hour)}
	for _, tc := range []struct {
		leaf     *x509.Certificate
		failures int
		want     time.Duration
	}{
		{nil, 1, 15 * time.Minute}, {nil, 2, 30 * time.Minute}, {nil, 5, 4 * time.Hour}, {nil, 6, 8 * time.Hour}, {nil, 7, 12 * time.Hour}, {nil, 1000, 12 * time.Hour},
		{leaf, 3, time.Hour}, {leaf, 50, 12 * time.Hour}, {short, 50, time.Hour}, {short, 1, 15 * time.Minute},
	} {
		if _, next := Due(tc.leaf, Attempt{At: now, Failures: tc.failures}, now); next.Sub(now) != tc.want {
			t.Errorf("after %d failures: %v, want %v", tc.failures, next.Sub(now), tc.want)
		}
	}
	if due, _ := Due(nil, Attempt{}, now); !due {
		t.Error("what is missing is not due")
	}
	if due, next := Due(leaf, Attempt{}, now.Add(-30*day)); due || next != leaf.NotBefore.Add(60*day) {
		t.Errorf("due %v, next %v", due, next)
	}
}
