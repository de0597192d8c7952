// Package keyring keeps the keys that tokens are signed with. plan.go decides, on facts
// alone, which key signs, which are published, and when there is a new one; keyring.go
// makes and keeps them.
package keyring

import "time"

// Fact describes what the decision knows of a key.
type Fact struct {
	Generation int64
	Epoch      int64
	Created    time.Time
}

// Rules say when keys change.
type Rules struct {
	// RotateAfter is the age at which a key no longer signs.
	RotateAfter time.Duration
	// Epoch is the operator's number: a key of a lower one no longer signs.
	Epoch int64
	// Longest is the time that a token lives at most. A key is published for as long after
	// the next one was made.
	Longest time.Duration
}

// Plan describes what is to be done with keys.
type Plan struct {
	New  bool    // a new key is to be made: no key may sign
	Drop []int64 // generations with which no valid token was signed
}

// Decide returns the plan for keys, the oldest first. A key is dropped only if a newer
// one has been signing for longer than tokens live.
func Decide(keys []Fact, rules Rules, now time.Time) Plan {
	var p Plan
	for i, k := range keys {
		last := i == len(keys)-1
		switch {
		case last && (k.Epoch < rules.Epoch || now.Sub(k.Created) >= rules.RotateAfter):
			p.New = true
		case !last && now.Sub(keys[i+1].Created) > rules.Longest+grace:
			p.Drop = append(p.Drop, k.Generation)
		}
	}
	p.New = p.New || len(keys) == 0
	return p
}

// grace is the time that is added to the life of tokens: an instance signs with the key before as
// long as it has not looked, and clocks differ.
const grace = 2 * time.Minute
