package agent

import (
	"time"

	"github.com/clusterworks/deploy/agent/api"
	"github.com/clusterworks/deploy/agent/internal/install"
	"github.com/clusterworks/deploy/agent/internal/supervise"
)

// health returns how the instance is, why, and since when it is healthy. One of
// which it is not known what should run is not stopped.
func health(s *supervise.Supervisor, i *install.Installer) (api.InstanceState, []string, *time.Time) {
	state, reasons, since := s.Health()
	if why := i.Lost(); why != "" && state == api.InstanceStopped {
		return api.InstanceFailing, []string{why}, nil
	}
	return state, reasons, since
}
