package cloudcontroller

import (
	"maps"
	"net/http"
	"slices"
)

// getInfo says what this cloud is, and to who is logged in what the account has.
func (c *Controller) getInfo(w http.ResponseWriter, r *http.Request) error {
	settings := c.settings.Load()
	type runtime struct {
		Name        string `json:"name"`
		Version     string `json:"version"`
		Description string `json:"description"`
	}
	type framework struct {
		Name      string           `json:"name"`
		Runtimes  []runtime        `json:"runtimes"`
		Detection []map[string]any `json:"detection"`
	}
	frameworks := map[string]framework{}
	for name, f := range c.catalog.frameworks {
		entry := framework{Name: name, Runtimes: []runtime{}, Detection: f.Detection}
		if entry.Detection == nil {
			entry.Detection = []map[string]any{}
		}
		for _, choice := range f.Runtimes {
			for _, name := range slices.Sorted(maps.Keys(choice)) {
				if info, ok := c.catalog.runtimes[name]; ok {
					entry.Runtimes = append(entry.Runtimes, runtime{info.Name, info.Version, info.Description})
				}
			}
		}
		frameworks[name] = entry
	}
	doc := map[string]any{
		"name": settings.Name, "build": settings.Build, "support": settings.Support, "version": settings.Version,
		"description": settings.Description, "allow_debug": settings.AllowDebug, "frameworks": frameworks,
	}
	a, known, err := c.optional(r)
	if err != nil {
		return err
	}
	if known {
		usage, err := c.store.Usage(r.Context(), a.ID)
		if err != nil {
			return err
		}
		doc["user"] = a.Email
		doc["limits"] = settings.capacity(a.admin)
		doc["usage"] = map[string]int{"memory": usage.Memory, "apps": usage.Apps, "services": usage.Services}
	}
	writeJSON(w, http.StatusOK, doc)
	return nil
}

func (c *Controller) getRuntimes(w http.ResponseWriter, _ *http.Request) error {
	type runtime struct {
		Version     string   `json:"version"`
		Description string   `json:"description"`
		DebugModes  []string `json:"debug_modes"`
	}
	doc := map[string]runtime{}
	for name, info := range c.catalog.runtimes {
		doc[name] = runtime{info.Version, info.Description, info.DebugModes}
	}
	writeJSON(w, http.StatusOK, doc)
	return nil
}
