package routes

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/clusterworks/deploy/agent/api"
)

// Now has the facts that decide which routes are registered.
type Now struct {
	Spec     api.Spec // the active one
	Statuses []api.ProcessStatus
}

// process names one process of the instance.
type process struct{ job, name string }

// key is one route.
type key struct {
	process
	host string
	port int
}

// route is a registration and the user that sends it.
type route struct {
	login
	message string // a registration, JSON
	drain   time.Duration
}

type set map[key]route

// registration is the message of the components' protocol: see docs/protocol.md.
type registration struct {
	Host string            `json:"host"`
	Port int               `json:"port"`
	URIs []string          `json:"uris"`
	Tags map[string]string `json:"tags"`
	// ID is the value of a sticky session's cookie.
	ID    string `json:"private_instance_id"`
	Index int    `json:"private_instance_index"`
}

// wanted returns the routes that the routers shall know: those of healthy processes
// that were not withdrawn.
func (n Now) wanted(withdrawn map[process]bool) set {
	states := map[process]api.ProcessStatus{}
	for _, s := range n.Statuses {
		states[process{s.Job, s.Name}] = s
	}
	out := set{}
	for _, job := range n.Spec.Jobs {
		for _, p := range job.Processes {
			id := process{job.Name, p.Name}
			if withdrawn[id] || states[id].State != api.ProcessRunning {
				continue
			}
			for _, t := range p.Routes {
				message, err := json.Marshal(registration{
					Host: n.Spec.Address, Port: t.Port, URIs: []string{t.Host}, Tags: map[string]string{"component": job.Name},
					ID: fmt.Sprintf("%s-%s-%d", n.Spec.Instance, p.Name, t.Port), Index: n.Spec.Index,
				})
				if err != nil {
					continue // plain data; cannot fail
				}
				out[key{id, t.Host, t.Port}] = route{login{t.User, t.Password}, string(message), time.Duration(t.DrainMS) * time.Millisecond}
			}
		}
	}
	return out
}

// forget drops from withdrawn what was stopped or is not there.
func forget(withdrawn map[process]bool, statuses []api.ProcessStatus) {
	there := map[process]bool{}
	for _, s := range statuses {
		there[process{s.Job, s.Name}] = s.State != api.ProcessStopped
	}
	for p := range withdrawn {
		if !there[p] {
			delete(withdrawn, p)
		}
	}
}
