package simulate

import (
	"hash/fnv"
	"slices"
	"strconv"
	"time"

	"github.com/clusterworks/deploy/deployer/internal/rollout"
)

func (w *world) irreversible(x *instance) bool {
	return x.spec != nil && slices.Contains(w.options.Irreversible, w.plan.Groups[x.group].Name)
}

// latency of an operation: it follows from seed and operation alone, so it
// does not depend on what else happens.
func (w *world) latency(c rollout.Command) time.Duration {
	from, to := time.Second, 20*time.Second
	switch c.Kind {
	case rollout.CommandUpdate, rollout.CommandRestart, rollout.CommandRollback:
		to = 40 * time.Second
	case rollout.CommandWatch:
		from, to = c.MinHealthy, max(c.MinHealthy, c.Deadline)+1
	case rollout.CommandReplaceVM, rollout.CommandDeleteVM:
		from, to = 20*time.Second, 3*time.Minute
	}
	return from + time.Duration(w.hash(c.OpID, "latency")%uint64(to-from+1))
}

// chance is 0 to 99.
func (w *world) chance(of ...string) uint64 { return w.hash(of...) % 100 }

func (w *world) hash(of ...string) uint64 {
	h := fnv.New64a()
	h.Write([]byte(strconv.FormatUint(w.options.Seed, 10)))
	for _, s := range of {
		h.Write([]byte{0})
		h.Write([]byte(s))
	}
	// FNV's low bits are poorly mixed for inputs that end alike.
	x := h.Sum64()
	x ^= x >> 33
	x *= 0xff51afd7ed558ccd // finaliser of MurmurHash3, public domain, Austin Appleby
	x ^= x >> 33
	return x
}
