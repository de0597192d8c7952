package wire

import (
	"encoding/json"
	"fmt"
	"time"
)

// SubjectRouterHosts is the subject on which cloud controllers tell the routers which host names
// apps have, so that an app without an instance is told from one that does not exist.
// Ours only: other routers do not listen, and answer 404 for both.
const SubjectRouterHosts = "router.hosts" // RouterHosts

// The times of SubjectRouterHosts.
const (
	HostsInterval   = 30 * time.Second // between two times that all names are told
	HostsStaleAfter = 10 * time.Minute // a name not told for longer is forgotten
	// MaxHosts is the number of names that a message has at most; more take several.
	MaxHosts = 2000
)

// RouterHosts are some of the host names of apps, in lower case.
type RouterHosts struct {
	Hosts []string `json:"hosts"`
	Gone  []string `json:"gone,omitempty"` // that no app has any more
}

// ParseRouterHosts decodes a message of SubjectRouterHosts.
func ParseRouterHosts(data []byte) (RouterHosts, error) {
	var h RouterHosts
	if err := json.Unmarshal(data, &h); err != nil {
		return RouterHosts{}, fmt.Errorf("cannot read host names of apps: %w", err)
	}
	if len(h.Hosts) > MaxHosts || len(h.Gone) > MaxHosts {
		return RouterHosts{}, fmt.Errorf("cannot use a message of %d host names of apps: %d are the most", len(h.Hosts)+len(h.Gone), MaxHosts)
	}
	return h, nil
}
