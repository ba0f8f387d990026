{{/* Names, labels and what all pods have in common. */}}

{{- define "tunesmith.name" -}}
{{- if contains .Chart.Name .Release.Name }}{{ .Release.Name | trunc 40 | trimSuffix "-" }}{{ else }}{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 40 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- define "tunesmith.selector" -}}
app.kubernetes.io/name: {{ .root.Chart.Name }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- with .group }}
tunesmith/group: {{ . }}
{{- end }}
{{- end }}

{{- define "tunesmith.labels" -}}
{{ include "tunesmith.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
{{- end }}

{{/* Exactly one place for the files. */}}
{{- define "tunesmith.checked" -}}
{{- if and .Values.store.url .Values.home.existingClaim }}{{ fail "store.url and home.existingClaim are both set: files are in a store or in a shared folder, set one of them" }}{{ end }}
{{- if not (or .Values.store.url .Values.home.existingClaim) }}{{ fail "store.url or home.existingClaim is needed: s3://bucket/prefix, or a ReadWriteMany volume that all pods share" }}{{ end }}
{{- if and .Values.api.ingress.enabled (not .Values.api.ingress.host) }}{{ fail "api.ingress.host is needed: the name under which clients reach the service" }}{{ end }}
{{- if and .Values.autoscaling.enabled (not .Values.autoscaling.secret.name) }}{{ fail "autoscaling.secret.name is needed: the Secret with the database's URL for KEDA" }}{{ end }}
{{- end }}

{{- define "tunesmith.home" -}}
{{ if .Values.store.url }}/var/lib/tunesmith/home{{ else }}/var/lib/tunesmith{{ end }}
{{- end }}

{{/* The URL of every engine. A pod of a StatefulSet keeps its name, and so its place in the ranking of engines. */}}
{{- define "tunesmith.engines" -}}
{{- $name := include "tunesmith.name" . -}}
{{- range $place := until (int .Values.engine.replicas) }}{{ if $place }},{{ end }}http://{{ $name }}-engine-{{ $place }}.{{ $name }}-engine:8100{{ end }}
{{- end }}

{{- define "tunesmith.engineHosts" -}}
{{- $name := include "tunesmith.name" . -}}
{{- range $place := until (int .Values.engine.replicas) }}{{ if $place }},{{ end }}{{ $name }}-engine-{{ $place }}.{{ $name }}-engine{{ end }}
{{- end }}

{{- define "tunesmith.apiHosts" -}}
{{- $name := printf "%s-api" (include "tunesmith.name" .) -}}
{{- $names := list $name (printf "%s.%s" $name .Release.Namespace) (printf "%s.%s.svc" $name .Release.Namespace) (printf "%s.%s.svc.cluster.local" $name .Release.Namespace) -}}
{{- if .Values.api.ingress.enabled }}{{ $names = append $names .Values.api.ingress.host }}{{ end -}}
{{ concat $names .Values.api.names | join "," }}
{{- end }}

{{- define "tunesmith.secret" -}}
- name: {{ .variable }}
  valueFrom: {secretKeyRef: {name: {{ .name }}, key: {{ .key }}}}
{{- end }}

{{/* Variables: of every process that has files; the same with the secrets of those that know database and broker. */}}
{{- define "tunesmith.fileVariables" -}}
- {name: TUNESMITH_HOME, value: {{ include "tunesmith.home" . }}}
- {name: TUNESMITH_TRUST_NETWORK, value: "1"}  # NetworkPolicies and the ingress decide who reaches it
{{- range $name, $value := .Values.settings }}
- {name: TUNESMITH_{{ $name }}, value: {{ (kindIs "string" $value | ternary $value (toJson $value)) | quote }}}
{{- end }}
{{- with .Values.store.url }}
- {name: TUNESMITH_STORE_URL, value: {{ . | quote }}}
- {name: TUNESMITH_STORE_ADDRESSING, value: {{ $.Values.store.addressing }}}
{{- with $.Values.store.endpoint }}
- {name: TUNESMITH_STORE_ENDPOINT, value: {{ . | quote }}}
{{- end }}
{{- with $.Values.store.region }}
- {name: AWS_REGION, value: {{ . }}}
{{- end }}
{{- with $.Values.secrets.store }}
{{- if .name }}
{{ include "tunesmith.secret" (dict "variable" "AWS_ACCESS_KEY_ID" "name" .name "key" .id) }}
{{ include "tunesmith.secret" (dict "variable" "AWS_SECRET_ACCESS_KEY" "name" .name "key" .key) }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{- define "tunesmith.variables" -}}
{{ include "tunesmith.fileVariables" . }}
{{ include "tunesmith.secret" (dict "variable" "TUNESMITH_DATABASE_URL" "name" .Values.secrets.database.name "key" .Values.secrets.database.key) }}
{{ include "tunesmith.secret" (dict "variable" "TUNESMITH_BROKER_URL" "name" .Values.secrets.broker.name "key" .Values.secrets.broker.key) }}
{{ include "tunesmith.secret" (dict "variable" "TUNESMITH_SECRET_KEY" "name" .Values.secrets.encryption.name "key" .Values.secrets.encryption.key) }}
{{- end }}

{{- define "tunesmith.engineVariables" -}}
{{ include "tunesmith.secret" (dict "variable" "TUNESMITH_ENGINE_KEY" "name" .Values.secrets.engine.name "key" .Values.secrets.engine.key) }}
- {name: TUNESMITH_ENGINE_URL, value: {{ include "tunesmith.engines" . | quote }}}
{{- end }}

{{- define "tunesmith.hubVariables" -}}
{{- with .Values.secrets.hub }}
{{- if .name }}
{{ include "tunesmith.secret" (dict "variable" "HF_TOKEN" "name" .name "key" .key) }}
{{- end }}
{{- end }}
{{- end }}

{{/* Of every pod. Without enableServiceLinks false, Kubernetes would add variables such as TUNESMITH_API_PORT, which the
     settings refuse. */}}
{{- define "tunesmith.pod" -}}
{{- if ne .component "migrate" }}
serviceAccountName: {{ include "tunesmith.name" .root }}
{{- end }}
automountServiceAccountToken: false
enableServiceLinks: false
shareProcessNamespace: true  # process 1 is then one that reaps what a dead process leaves
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: {type: RuntimeDefault}
{{- with .root.Values.images.pullSecrets }}
imagePullSecrets:
{{- range . }}
  - name: {{ . }}
{{- end }}
{{- end }}
{{- with .of.nodeSelector }}
nodeSelector: {{ toJson . }}
{{- end }}
{{- with .of.tolerations }}
tolerations: {{ toJson . }}
{{- end }}
{{- end }}

{{- define "tunesmith.container" -}}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
imagePullPolicy: {{ .Values.images.pullPolicy }}
{{- end }}

{{/* Resources of a container with GPUs: a pod gets whole ones, and requests equal limits. */}}
{{- define "tunesmith.gpuResources" -}}
{{- $gpus := dict "limits" (dict .root.Values.gpuResource .of.gpus) "requests" (dict .root.Values.gpuResource .of.gpus) -}}
{{- toJson (mergeOverwrite (deepCopy .of.resources) $gpus) -}}
{{- end }}

{{- define "tunesmith.mounts" -}}
- {name: home, mountPath: /var/lib/tunesmith}
{{- if .Values.home.existingClaim }}
- {name: run, mountPath: /var/lib/tunesmith/run}
{{- end }}
- {name: tmp, mountPath: /tmp}
- {name: user, mountPath: /home/tunesmith}
{{- end }}

{{- define "tunesmith.gpuMounts" -}}
{{ include "tunesmith.mounts" . }}
- {name: hub, mountPath: /var/cache/huggingface}
- {name: memory, mountPath: /dev/shm}
{{- end }}

{{- define "tunesmith.volumes" -}}
- name: home
{{- if .Values.home.existingClaim }}
  persistentVolumeClaim: {claimName: {{ .Values.home.existingClaim }}}
- {name: run, emptyDir: {}}  # sockets and the locks of GPUs need a local disk
{{- else }}
  emptyDir: {sizeLimit: {{ .Values.store.cacheSize }}}
{{- end }}
- {name: tmp, emptyDir: {}}
- {name: user, emptyDir: {}}
{{- end }}

{{- define "tunesmith.gpuVolumes" -}}
{{ include "tunesmith.volumes" . }}
- name: hub
{{- if .Values.hub.existingClaim }}
  persistentVolumeClaim: {claimName: {{ .Values.hub.existingClaim }}}
{{- else }}
  emptyDir: {sizeLimit: {{ .Values.hub.size }}}
{{- end }}
- {name: memory, emptyDir: {medium: Memory, sizeLimit: 8Gi}}
{{- end }}

{{/* The health check of a worker asks the database for its row. It fails for as long as a lease lasts before the pod is
     restarted: a database that is away for a moment ends no training. */}}
{{- define "tunesmith.workerProbes" -}}
startupProbe:
  exec: {command: [python, -m, worker.supervising.alive, {{ . }}]}
  periodSeconds: 10
  timeoutSeconds: 15
  failureThreshold: 30
livenessProbe:
  exec: {command: [python, -m, worker.supervising.alive, {{ . }}]}
  periodSeconds: 30
  timeoutSeconds: 15
  failureThreshold: 6
{{- end }}
