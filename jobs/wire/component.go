package wire

import (
	"encoding/json"
	"fmt"
	"time"
)

// Subjects of every component.
const (
	SubjectAnnounce = "vcap.component.announce" // Component, once at start
	SubjectDiscover = "vcap.component.discover" // request, payload ignored; answer Component with Uptime
)

// Component describes a running component and where its status is served.
type Component struct {
	Type  string `json:"type"`  // "Router", "DEA", "CloudController", ...
	Index *int   `json:"index"` // null if it has none
	UUID  string `json:"uuid"`
	Host  string `json:"host"` // ip:port of the status HTTP server
	// Credentials are user and password of the status HTTP server.
	Credentials [2]string `json:"credentials"`
	Start       string    `json:"start"` // see FormatTime
	// Uptime (see FormatUptime) is absent from the announcement.
	Uptime string `json:"uptime,omitempty"`
}

// ParseComponent decodes an announcement or the answer to a discover request.
func ParseComponent(data []byte) (Component, error) {
	var c Component
	if err := json.Unmarshal(data, &c); err != nil {
		return Component{}, fmt.Errorf("cannot read a component: %w", err)
	}
	return c, nil
}

// FormatTime writes a time as Ruby's Time#to_s does: "2012-08-01 10:00:00 +0000".
func FormatTime(t time.Time) string { return t.Format("2006-01-02 15:04:05 -0700") }

// FormatUptime writes a duration as days, hours, minutes and seconds, unpadded:
// "0d:3h:12m:9s".
func FormatUptime(d time.Duration) string {
	s := int64(max(d, 0) / time.Second)
	return fmt.Sprintf("%dd:%dh:%dm:%ds", s/86400, s/3600%24, s/60%60, s%60)
}
