package supervise

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/clusterworks/deploy/agent/api"
)

// key names a process of an instance.
type key struct{ job, name string }

func (k key) String() string { return k.job + "/" + k.name }

func (k key) compare(o key) int {
	return cmp.Or(cmp.Compare(k.job, o.job), cmp.Compare(k.name, o.name))
}

// expectation describes what the active generation wants of a process.
type expectation struct {
	key
	digest, reloadDigest string
}

// fact describes what the health rule looks at.
type fact struct {
	state                api.ProcessState
	digest, reloadDigest string
	crashed              bool   // ended by itself a while ago and has not become ready since
	reason               string // of the process's state
	reloadError          string // the last reload failed
}

func expectationsOf(jobs []api.Job) []expectation {
	var all []expectation
	for _, job := range jobs {
		for _, p := range job.Processes {
			all = append(all, expectation{key{job.Name, p.Name}, p.Digest, p.ReloadDigest})
		}
	}
	slices.SortFunc(all, func(a, b expectation) int { return a.key.compare(b.key) })
	return all
}

// judge is the health rule: the instance runs when every expected process runs
// with the wanted digests and passes its checks. It fails when one has ended by
// itself and is not back, fails a check or could not reload; else it starts.
func judge(expected []expectation, facts map[key]fact) (api.InstanceState, []string) {
	if len(expected) == 0 {
		return api.InstanceStopped, nil
	}
	state, reasons := api.InstanceRunning, []string(nil)
	for _, e := range expected {
		f, there := facts[e.key]
		if !there {
			f.state = api.ProcessStopped
		}
		s, reason := judgeOne(e, f)
		if s == api.InstanceRunning {
			continue
		}
		if state != api.InstanceFailing {
			state = s
		}
		reasons = append(reasons, e.key.String()+" "+reason)
	}
	return state, reasons
}

func judgeOne(e expectation, f fact) (api.InstanceState, string) {
	because := func(what string) string {
		if f.reason == "" {
			return what
		}
		return what + ": " + f.reason
	}
	switch {
	case f.state == api.ProcessBackoff:
		return api.InstanceFailing, because("has ended and will be started again")
	case f.state == api.ProcessFailing:
		return api.InstanceFailing, because("fails a check")
	case f.crashed:
		return api.InstanceFailing, because("has ended and is starting again")
	case f.state == api.ProcessStarting:
		return api.InstanceStarting, because("is starting")
	case f.state != api.ProcessRunning:
		return api.InstanceStarting, fmt.Sprintf("is wanted and %s", f.state)
	case f.digest != e.digest:
		return api.InstanceStarting, "runs from another spec than the wanted one"
	case f.reloadDigest != e.reloadDigest && f.reloadError != "":
		return api.InstanceFailing, "could not reload: " + f.reloadError
	case f.reloadDigest != e.reloadDigest:
		return api.InstanceStarting, "has not loaded its changed files"
	}
	return api.InstanceRunning, ""
}
