package dea

import (
	"context"
	"encoding/json"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/clusterworks/deploy/jobs/confine/network"
	"github.com/clusterworks/deploy/jobs/wire"
)

// Bounds on what is looked up of an app's services before it starts.
const (
	maxServiceAddresses = 64
	lookupWait          = 5 * time.Second
)

// serviceAddresses returns where an app's bound services are, as destinations that it
// may reach: what their credentials say by host and port, or by URIs. Names are looked
// up now.
func serviceAddresses(ctx context.Context, services []wire.BoundService) []string {
	ctx, cancel := context.WithTimeout(ctx, lookupWait)
	defer cancel()
	var list []string
	for _, s := range services {
		for _, at := range endpoints(s.Credentials) {
			host, port, err := net.SplitHostPort(at)
			if err != nil {
				continue
			}
			addresses, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
			if err != nil {
				continue // the app will not find it either
			}
			for _, address := range addresses {
				address = address.Unmap()
				to := address.String() + " " + port
				if _, err := network.ParseDestination(to); err == nil && !network.Closest(address) && !slices.Contains(list, to) && len(list) < maxServiceAddresses {
					list = append(list, to)
				}
			}
		}
	}
	return list
}

// usualPorts are those of URIs that name none.
var usualPorts = map[string]string{
	"http": "80", "https": "443", "postgres": "5432", "postgresql": "5432", "mysql": "3306", "mysql2": "3306", "redis": "6379",
	"mongodb": "27017", "amqp": "5672", "amqps": "5671", "nats": "4222",
}

// endpoints finds "host:port" in credentials.
func endpoints(credentials json.RawMessage) []string {
	var values map[string]any
	if json.Unmarshal(credentials, &values) != nil {
		return nil
	}
	var found []string
	text := func(key string) string {
		switch v := values[key].(type) {
		case string:
			return v
		case float64:
			return strconv.FormatFloat(v, 'f', -1, 64)
		}
		return ""
	}
	for _, key := range []string{"hostname", "host"} {
		if host, port := text(key), text("port"); host != "" && port != "" {
			found = append(found, net.JoinHostPort(strings.Trim(host, "[]"), port))
		}
	}
	for _, v := range values {
		s, ok := v.(string)
		if !ok || !strings.Contains(s, "://") {
			continue
		}
		u, err := url.Parse(s)
		if err != nil || u.Hostname() == "" {
			continue
		}
		port := u.Port()
		if port == "" {
			port = usualPorts[strings.ToLower(u.Scheme)]
		}
		if port != "" {
			found = append(found, net.JoinHostPort(u.Hostname(), port))
		}
	}
	slices.Sort(found)
	return slices.Compact(found)
}
