package keyring

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/clusterworks/deploy/jobs/uaa/internal/store"
)

var begin = time.Unix(1343815200, 0)

// TestRotationLogsNobodyOut: whatever the rules and however often it is looked, a token
// that is valid was signed with a key that is there.
func TestRotationLogsNobodyOut(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		rules := Rules{
			RotateAfter: time.Duration(rapid.IntRange(1, 100).Draw(t, "rotate after, min")) * time.Minute,
			Longest:     time.Duration(rapid.IntRange(1, 100).Draw(t, "life, min")) * time.Minute,
		}
		type token struct {
			generation int64
			expires    time.Time
		}
		var keys []Fact
		var tokens []token
		now := begin
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			now = now.Add(time.Duration(rapid.IntRange(1, 3600).Draw(t, "seconds")) * time.Second)
			if rapid.IntRange(0, 9).Draw(t, "operator") == 0 {
				rules.Epoch++
			}
			plan := Decide(keys, rules, now)
			keys = slices.DeleteFunc(keys, func(k Fact) bool { return slices.Contains(plan.Drop, k.Generation) })
			if plan.New {
				generation := int64(1)
				if len(keys) > 0 {
					generation = keys[len(keys)-1].Generation + 1
				}
				keys = append(keys, Fact{Generation: generation, Epoch: rules.Epoch, Created: now})
			}
			last := keys[len(keys)-1]
			if last.Epoch < rules.Epoch || now.Sub(last.Created) >= rules.RotateAfter {
				t.Fatalf("%+v signs, with %+v at %v", last, rules, now)
			}
			tokens = append(tokens, token{last.Generation, now.Add(rules.Longest)})
			for _, held := range tokens {
				if held.expires.After(now) && !slices.ContainsFunc(keys, func(k Fact) bool { return k.Generation == held.generation }) {
					t.Fatalf("the key of a valid token is gone: %+v", held)
				}
			}
		}
		// They do not pile up.
		if plan := Decide(keys, rules, now.Add(rules.Longest+2*grace)); len(plan.Drop) != len(keys)-1 {
			t.Errorf("of %d keys %v are dropped", len(keys), plan.Drop)
		}
	})
}

// table is a database of keys.
type table struct {
	mu   sync.Mutex
	rows []store.Key
}

func (d *table) Keys(context.Context) ([]store.Key, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.rows), nil
}

func (d *table) AddKey(_ context.Context, k store.Key) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if slices.ContainsFunc(d.rows, func(other store.Key) bool { return other.Generation == k.Generation }) {
		return store.ErrExists
	}
	d.rows = append(d.rows, k)
	return nil
}

func (d *table) DropKey(_ context.Context, generation int64) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.rows = slices.DeleteFunc(d.rows, func(k store.Key) bool { return k.Generation == generation })
	return nil
}

// TestRing: instances agree on one key, whose private part only who has the secret can
// read; another secret makes new keys and uses none of the old.
func TestRing(t *testing.T) {
	t.Parallel()
	db, log := &table{}, slog.New(slog.DiscardHandler)
	rules := func() Rules { return Rules{RotateAfter: time.Hour, Longest: time.Minute} }
	rings := []*Ring{New(db, log, rules, "a secret"), New(db, log, rules, "a secret")}
	if _, err := rings[0].Signing(); err == nil {
		t.Error("a ring without keys signs")
	}
	var all sync.WaitGroup
	for _, r := range rings {
		all.Go(func() {
			if err := r.Refresh(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	first, err1 := rings[0].Signing()
	second, err2 := rings[1].Signing()
	if err := errors.Join(err1, err2); err != nil || first.ID != second.ID || !first.Private.Equal(second.Private) || len(db.rows) != 1 {
		t.Fatalf("%s and %s, %v", first.ID, second.ID, err)
	}
	other := New(db, log, rules, "another secret")
	if err := other.Refresh(t.Context()); err != nil || len(other.Keys()) != 1 || other.Keys()[0].ID == first.ID {
		t.Errorf("with another secret: %v, %v", other.Keys(), err)
	}
	// A row that somebody wrote into another's place opens nothing.
	db.rows[0].ID, db.rows[0].Generation = "forged", 9
	if keys, _ := rings[0].open(db.rows[:1]); len(keys) != 0 {
		t.Error("a key with another's name is taken")
	}
}
