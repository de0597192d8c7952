package passwords

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestHasher(t *testing.T) {
	h := NewHasher(1, Recommended)
	ctx := t.Context()
	hash, err := h.Hash(ctx, "secret")
	if err != nil || !strings.HasPrefix(hash, "$argon2id$v=19$m=19456,t=2,p=1$") {
		t.Fatalf("%s, %v", hash, err)
	}
	if again, err := h.Hash(ctx, "secret"); err != nil || again == hash {
		t.Errorf("two hashes are the same, %v", err)
	}
	for password, want := range map[string]bool{"secret": true, "Secret": false, "": false, strings.Repeat("x", maxPassword+1): false} {
		if ok, err := h.Check(ctx, hash, password); err != nil || ok != want {
			t.Errorf("%.10q: %v, %v", password, ok, err)
		}
	}
	if ok, err := h.Check(ctx, "", "secret"); ok || err != nil {
		t.Errorf("nobody's password: %v, %v", ok, err)
	}
	for _, password := range []string{"", strings.Repeat("x", maxPassword+1)} {
		if _, err := h.Hash(ctx, password); !errors.Is(err, ErrPassword) {
			t.Errorf("%.10q: %v", password, err)
		}
	}
	for _, damaged := range []string{"x", "$argon2i$v=19$m=1,t=1,p=1$YQ$YQ", "$argon2id$v=18$m=8,t=1,p=1$YQ$YQ", "$argon2id$v=19$m=8,t=0,p=1$YQ$YQ", "$argon2id$v=19$m=8,t=1,p=1$*$YQ", "$argon2id$v=19$m=8,t=1,p=1$YQ$"} {
		if ok, err := h.Check(ctx, damaged, "secret"); ok || err == nil {
			t.Errorf("%q: %v, %v", damaged, ok, err)
		}
	}
	// While as many are hashed as may be, others wait no longer than they want.
	h.slots <- struct{}{}
	over, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := h.Hash(over, "secret"); !errors.Is(err, context.Canceled) {
		t.Errorf("all are busy: %v", err)
	}
	// Not more wait than can be served soon.
	h.waiting.Store(1 + queuePerSlot)
	if _, err := h.Check(ctx, hash, "secret"); !errors.Is(err, ErrBusy) {
		t.Errorf("the queue is full: %v", err)
	}
	h.waiting.Store(queuePerSlot)
	<-h.slots
	if ok, err := h.Check(ctx, hash, "secret"); !ok || err != nil || h.waiting.Load() != queuePerSlot {
		t.Errorf("there is room in the queue: %v, %v", ok, err)
	}
}

func TestLimiter(t *testing.T) {
	now := time.Unix(1343815200, 0)
	l := NewLimiter(10 * time.Second)
	for i, want := range []time.Duration{0, 0, 0, 10 * time.Second, 20 * time.Second} {
		if wait := l.Wait(l.Begin("a"), 3, time.Time{}, now); wait != want {
			t.Errorf("attempt %d at once waits %v, want %v", i+1, wait, want)
		}
	}
	if wait := l.Wait(l.Begin("b"), 3, time.Time{}, now); wait != 0 {
		t.Errorf("another waits %v", wait)
	}
	for range 5 {
		l.End("a")
	}
	l.End("b")
	if len(l.underWay) != 0 {
		t.Errorf("%d names are remembered", len(l.underWay))
	}
	// Three have failed.
	forgotten := now.Add(30 * time.Second)
	for after, want := range map[int]time.Duration{0: 10 * time.Second, 9: time.Second, 10: 0, 60: 0} {
		if wait := l.Wait(1, 3, forgotten, now.Add(time.Duration(after)*time.Second)); wait != want {
			t.Errorf("after %d s: wait %v, want %v", after, wait, want)
		}
	}
}

// However attempts come and however many are under way, no more than burst +
// time/interval fail.
func TestLimiterBound(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		burst := rapid.IntRange(1, 5).Draw(t, "burst")
		l := NewLimiter(time.Second)
		begin := time.Unix(1343815200, 0)
		at, forgotten := begin, time.Time{}
		underWay, failed := 0, 0
		fail := func() {
			if forgotten.Before(at) {
				forgotten = at
			}
			forgotten = forgotten.Add(l.Interval)
			l.End("a")
			underWay--
			failed++
		}
		for range rapid.IntRange(1, 100).Draw(t, "steps") {
			at = at.Add(time.Duration(rapid.IntRange(0, 2000).Draw(t, "ms")) * time.Millisecond)
			if underWay > 0 && rapid.Bool().Draw(t, "one fails") {
				fail()
			}
			if l.Wait(l.Begin("a"), burst, forgotten, at) > 0 {
				l.End("a")
				continue
			}
			underWay++
		}
		for underWay > 0 {
			fail()
		}
		if bound := float64(burst) + at.Sub(begin).Seconds() + 1e-9; float64(failed) > bound {
			t.Errorf("%d of at most %v failed", failed, bound)
		}
	})
}

// TestNewEmail: a new account's name is not another's in other letters, and means nothing
// in a URL.
func TestNewEmail(t *testing.T) {
	for email, want := range map[string]bool{
		"dev@example.com": true, "Dev+tag.1_x-y'z@sub.example.com": true,
		"": false, "dev": false, "@": false, "dev@": false, "dev@example.com ": false, "Dev <dev@example.com>": false,
		"\u212Aate@example.com": false, "d\u0435v@example.com": false, "dev@ex\u0430mple.com": false,
		"dev@example.com/tokens": false, "a/../b@example.com": false, "dev?x@example.com": false, "dev%40@example.com": false,
		"\"a b\"@example.com": false, "dev@example.com\r\nX: y": false, "dev@example.com\x00": false,
	} {
		if got := NewEmail(email); got != want {
			t.Errorf("%q: %v", email, got)
		}
	}
}
