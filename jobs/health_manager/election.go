package healthmanager

import (
	"maps"
	"time"

	"github.com/clusterworks/deploy/jobs/wire"
)

// Election says which of several health managers acts: the one that hears the
// bus for the longest time without a break, so that it is the one that missed
// the least, and a new one never takes over from one that works.
//
// Nobody votes. Two may act for a moment, when one does not hear the other; then
// a start is asked for twice, and what is too much is stopped again.
type Election struct {
	self  wire.HealthManagerPresence
	every time.Duration // between two words of each
	since time.Time     // see self.Since; zero: the bus is away
	heard map[string]peer
}

// peer is another health manager.
type peer struct {
	since int64
	at    time.Time // heard last
}

// silences is after how many intervals without a word a health manager is
// taken for gone.
const silences = 3

// NewElection returns the election as the health manager id sees it.
func NewElection(id string, every time.Duration) *Election {
	return &Election{self: wire.HealthManagerPresence{ID: id}, every: every, heard: map[string]peer{}}
}

// Connected says that the bus is heard from now on, and with it the others.
func (e *Election) Connected(now time.Time) {
	e.self.Since, e.since = now.UnixMilli(), now
	clear(e.heard)
}

// Disconnected says that the bus is away.
func (e *Election) Disconnected() { e.since = time.Time{} }

// Presence returns what this one tells the others.
func (e *Election) Presence() wire.HealthManagerPresence { return e.self }

// Heard takes the word of a health manager. It says whether it is a new one,
// which wants to hear of this one at once.
func (e *Election) Heard(p wire.HealthManagerPresence, now time.Time) (isNew bool) {
	if p.ID == e.self.ID {
		return false
	}
	if p.Leaving {
		delete(e.heard, p.ID)
		return false
	}
	_, known := e.heard[p.ID]
	e.heard[p.ID] = peer{since: p.Since, at: now}
	return !known
}

// Leads says whether this one acts.
func (e *Election) Leads(now time.Time) bool {
	// The others have had the time to answer its first word.
	if e.since.IsZero() || now.Sub(e.since) < e.every {
		return false
	}
	maps.DeleteFunc(e.heard, func(_ string, p peer) bool { return now.Sub(p.at) > silences*e.every })
	for id, p := range e.heard {
		if p.since < e.self.Since || p.since == e.self.Since && id < e.self.ID {
			return false
		}
	}
	return true
}
